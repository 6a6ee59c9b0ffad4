"""Result storages that cannot be used are found before anything is executed, and so are those inside our own store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.servers.fault_proxy import FaultProxy
from tests.servers.minio import Minio, minio, new_namespace

from kapstan import backend as backends
from kapstan import flow, results
from kapstan.cache_policies import INPUTS
from kapstan.engine import values
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import ConfigurationError, StoreRefused
from kapstan.ids import Token, new_id
from kapstan.ports import Claim, Outcome
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.tasks import Task

__all__ = ["minio"]

Inside = Callable[[str], str]
ran: list[int] = []
GIVE = "its retention would take what you put there. Give a place of its own, such as s3://"
INSIDE = r"=.* lies in the store of namespace .* give a place of its own, such as "


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    yield
    ran.clear()
    backends.use(None)


@pytest.fixture(params=["local", "s3"])
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Inside:
    """The address of a place in the store of the namespace."""
    home = tmp_path / "home"
    if request.param == "local":
        backends.use(Settings(home=str(home)))
        return lambda below: str(home / "store" / "default" / below)
    server: Minio = request.getfixturevalue("minio")
    settings = server.settings(home=str(home), namespace=new_namespace())
    backends.use(settings)
    return lambda below: f"s3://{settings.s3_bucket}/{settings.namespace}/{below}"


def number() -> int:
    ran.append(1)
    return 1


def in_a_flow(**options: Any) -> Any:
    called = Task(number, name="number", **options)

    @flow
    def calls() -> int:
        return called()

    return calls()


def by_its_flow(**options: Any) -> Any:
    called = Task(number, name="number")

    @flow(**options)
    def calls() -> int:
        return called()

    return calls()


def in_the_background(**options: Any) -> Any:
    backend, spec = backends.current(), Task(number, name="number", **options).spec
    run_id = new_id()
    envelope = backend.codec.encode([[], {}], "arguments", values.arguments_key(run_id, "number"))
    with closing(BackgroundEngine({"number": spec}, backend)) as engine:
        outcome = engine.run(Claim(run_id, "number", Token(1, 1), 1, 0, EffectClass.PURE, envelope))
        assert type(outcome) is Outcome
        outcome = engine.stored(outcome)
    if outcome.state == "failed":
        raise values.open_failure(backend, outcome.envelope, run_id)
    return values.open_result(backend, outcome.envelope, run_id)


def alone(**options: Any) -> Any:
    return Task(number, name="number", result_storage_key="key", **options)()


EVERYWHERE = pytest.mark.parametrize("calls", [in_a_flow, by_its_flow, in_the_background, alone])


@EVERYWHERE
@pytest.mark.parametrize("below", ["", "values", "a/b"])
def test_a_storage_in_the_store_of_the_namespace(inside: Inside, calls: Any, below: str) -> None:
    with pytest.raises(ConfigurationError, match=f"result_storage{INSIDE}"):
        calls(result_storage=inside(below).rstrip("/"))
    assert ran == []


@pytest.mark.parametrize("effect", [EffectClass.PURE, EffectClass.AT_MOST_ONCE])
def test_registers_in_the_store_of_the_namespace(inside: Inside, effect: EffectClass) -> None:
    policy = INPUTS.configure(key_storage=inside("registers"))
    with pytest.raises(ConfigurationError, match=f"key_storage{INSIDE}"):
        Task(number, name="number", cache_policy=policy, effect=effect)()
    assert ran == []


def test_what_stands_beside_it_is_taken(inside: Inside) -> None:
    settings = backends.current().settings
    beside = inside("")[:-1] + "-results" if settings.s3_endpoint else f"{settings.home}/results"
    assert in_a_flow(result_storage=beside) == 1
    assert by_its_flow(result_storage=beside) == 1
    assert in_the_background(result_storage=beside) == 1
    store = results.ResultStore(result_storage=beside)
    store.write(7, "store/default")
    assert store.read("store/default").result == 7


@EVERYWHERE
def test_a_storage_in_the_store_of_another_namespace(minio: Minio, tmp_path: Path, calls: Any) -> None:
    theirs, ours = (minio.settings(home=str(tmp_path), namespace=new_namespace()) for _ in range(2))
    inside = f"s3://{theirs.s3_bucket}/{theirs.namespace}"
    backends.use(theirs)
    assert list(backends.current().store.keys("")), "it is there"
    for place in (inside, f"{inside}/values/x"):
        backends.use(ours)
        with pytest.raises(ConfigurationError, match=f"result_storage=.* the store of another namespace, .*: {GIVE}"):
            calls(result_storage=place)
    assert ran == []
    backends.use(ours)
    assert calls(result_storage=f"{inside}-results") == 1
    with pytest.raises(ConfigurationError, match=r"key_storage=.* lies in the store of another namespace"):
        backends.current().conditional(inside)


@pytest.mark.parametrize("fault", ["unavailable", "drop_reply"])
def test_a_store_that_does_not_say_whose_it_is_refuses_nothing(minio: Minio, tmp_path: Path, fault: Any) -> None:
    proxy = FaultProxy(minio.url, {fault: 1.0}, seed=1)
    with proxy.running():
        backends.use(minio.settings(proxy.url, home=str(tmp_path), store_deadline_seconds=0.2))
        assert backends.current().objects("s3://kapstan/x")
    assert proxy.counts[fault] > 0


def test_a_key_cannot_reach_into_it(inside: Inside) -> None:
    settings = backends.current().settings
    around = f"s3://{settings.s3_bucket}" if settings.s3_endpoint else settings.home
    below = f"{settings.namespace}/flows/x" if settings.s3_endpoint else "store/default/objects/era"
    store = results.ResultStore(result_storage=around)
    with pytest.raises(ConfigurationError, match=f"the key '{below}' in result_storage{INSIDE}"):
        store.write(7, below)
    store.write(7, f"x/{below}")
    assert store.read(f"x/{below}").result == 7


def test_a_link_into_it_is_seen(tmp_path: Path) -> None:
    backends.use(Settings(home=str(tmp_path / "home")))
    (tmp_path / "link").symlink_to(tmp_path / "home" / "store")
    with pytest.raises(ConfigurationError, match=f"result_storage{INSIDE}"):
        results.ResultStore(result_storage=tmp_path / "link" / "default").write(7, "a")


@EVERYWHERE
def test_a_storage_that_cannot_be_used(tmp_path: Path, calls: Any) -> None:
    backends.use(Settings(home=str(tmp_path / "home")))
    with pytest.raises(ConfigurationError, match="'s3://lake/x' needs KAPSTAN_S3_ENDPOINT"):
        calls(result_storage="s3://lake/x")
    assert ran == []


def test_a_storage_that_is_not_used_need_not_be_usable(tmp_path: Path) -> None:
    backends.use(Settings(home=str(tmp_path / "home")))
    assert Task(number, name="number", result_storage="s3://lake/x")() == 1, "nothing keeps the result of a lone call"
    assert in_a_flow(result_storage="s3://lake/x", persist_result=False) == 1


def test_the_submit_of_a_program_whose_settings_name_no_storage_is_refused(tmp_path: Path) -> None:
    backends.use(Settings(home=str(tmp_path / "home"), result_storage="s3://lake/x"))
    with pytest.raises(ConfigurationError, match="'s3://lake/x' needs KAPSTAN_S3_ENDPOINT"):
        Task(number, name="number").submit()
    assert ran == []


def test_a_key_below_another_one_is_told(tmp_path: Path) -> None:
    store = results.ResultStore(result_storage=tmp_path / "results")
    store.write(1, "a")
    store.write(2, "b/c")
    for key in ("a/b", "b"):
        with pytest.raises(StoreRefused, match="a key may not be the folder of another one"):
            store.write(3, key)
