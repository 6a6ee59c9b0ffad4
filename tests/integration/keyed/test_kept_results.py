"""Results of keyed runs: by serializer, in storages, in pieces; and registers in a storage of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.keyed.charging import ByInputs

from kapstan import backend as backends
from kapstan import flow, states
from kapstan.cache_policies import INPUTS
from kapstan.engine import keeping
from kapstan.errors import ConfigurationError, MissingResult, NotFound, ParkedRun, SignatureError, UnreadableValue
from kapstan.ports.register import RegisterKey, RegisterRecord, RegisterState
from kapstan.runs.parked import ParkedKeys
from kapstan.serializers import Serializer
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.store import named
from kapstan.store.local import LocalStore
from kapstan.tasks import Task

ran: list[Any] = []
PURE, ONCE = EffectClass.PURE, EffectClass.AT_MOST_ONCE


@pytest.fixture(autouse=True)
def fresh(setting: Settings) -> Iterator[None]:
    ran.clear()
    yield
    backends.use(None)


class Opaque:
    """Only ``OpaqueSerializer`` carries it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        raise TypeError("no pickle of it")


class OpaqueSerializer(Serializer):
    type = "kept-opaque"

    def dumps(self, obj: Any) -> bytes:
        return str(obj.number).encode()

    def loads(self, blob: bytes) -> Any:
        return Opaque(int(blob))


class Shelf:
    """A block-like storage."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.objects: dict[str, bytes] = {}

    def read_path(self, path: str) -> bytes:
        return self.objects[path]

    def write_path(self, path: str, content: bytes) -> None:
        self.objects[path] = content


def made(fn: Callable[..., Any], effect: EffectClass, **options: Any) -> Task[..., Any]:
    subject = Task(fn, name=f"kept-{fn.__name__}-{effect.name.lower()}", effect=effect, **options)
    if "cache_policy" not in options:
        subject.spec = replace(subject.spec, cache_policy=ByInputs())
    return subject


def number(n: int) -> int:
    ran.append(n)
    return n


def opaque(n: int) -> Opaque:
    ran.append(n)
    return Opaque(n)


def large(n: int) -> bytes:
    ran.append(n)
    return bytes([n]) * (3 << 20)


def record(subject: Task[..., Any], storage: str = "") -> RegisterRecord:
    register = backends.current().register
    (key,) = [key for key in register.all_keys(storage) if key.task == subject.spec.identity]
    entry = register.read(key)
    assert entry is not None
    return entry.record


def files(folder: Path, prefix: str) -> list[Path]:
    return [path for path in sorted(folder.glob(f"{prefix}/**/*")) if path.is_file()]


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_a_result_goes_by_its_serializer_to_its_storage(effect: EffectClass, setting: Settings, tmp_path: Path) -> None:
    """And is found from there by a process that shares only key, storage and register."""
    folder = tmp_path / "vault"
    subject = made(opaque, effect, result_serializer=OpaqueSerializer(), result_storage=folder)
    assert subject(3).number == 3
    (path,) = files(folder, "values/*/results")
    assert b"3" in path.read_bytes()
    assert list(backends.current().store.keys("results/")) == []
    backends.use(setting)
    state = subject(3, return_state=True)
    assert (state.name, state.result().number) == ("Cached", 3)
    assert ran == [3]


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_in_a_flow_its_options_count_and_a_key_of_ones_own_stands_in_the_storage(
    effect: EffectClass, tmp_path: Path
) -> None:
    folder = tmp_path / "of-the-flow"
    subject = made(number, effect, result_storage_key="numbers/{parameters[n]}")

    def calling() -> int:
        return subject(5)

    calls = flow(name=f"kept-calling-{effect.name}", result_storage=folder)(calling)
    assert calls() == 5
    assert len(files(folder, "values/*/results")) == 1
    assert len(files(folder, "numbers")) == 1
    (folder / "numbers" / "5").unlink()
    assert calls() == 5
    assert (ran, len(files(folder, "numbers"))) == ([5], 1), "who has the result by the key keeps it as asked, too"


@pytest.mark.parametrize("effect", [PURE, ONCE])
@pytest.mark.parametrize("stored", [False, True])
def test_a_long_result_goes_in_pieces_and_is_verified_when_it_is_read(
    effect: EffectClass, stored: bool, tmp_path: Path, setting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "STREAMED_BYTES", 1 << 20)
    folder = tmp_path / "long"
    subject = made(large, effect, **({"result_storage": folder} if stored else {}))
    assert subject(7) == bytes([7]) * (3 << 20)
    backend = backends.current()
    reference = backend.codec.reference(record(subject).result, "result", backend.register.path(key_of(subject)))
    assert reference is not None
    assert reference.digest.startswith("stream:")
    backends.use(setting)
    assert subject(7) == bytes([7]) * (3 << 20)
    assert ran == [7]
    objects = backends.current().objects(reference.storage)
    whole = objects.get(reference.key)
    assert whole is not None
    objects.put(reference.key, whole.body[:-9] + b"\1" + whole.body[-8:])
    with pytest.raises(SignatureError):
        subject(7)
    assert ran == [7], "what cannot be trusted is neither taken nor made anew"


def key_of(subject: Task[..., Any]) -> RegisterKey:
    (key,) = [key for key in backends.current().register.all_keys() if key.task == subject.spec.identity]
    return key


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_a_reader_without_the_storage_repeats_no_effect(
    effect: EffectClass, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    subject = made(number, effect, result_storage=Shelf(f"one {effect}"))
    assert subject(4) == 4
    reader = made(number, effect)  # as a process that has not imported what names the block
    monkeypatch.setattr(named, "_blocks", {})
    backends.use(backends.current().settings)
    if effect is PURE:
        assert reader(4) == 4
        assert ran == [4, 4]
        assert "cannot be used, it is made anew" in caplog.text
        assert "Shelf" in caplog.text
        return
    with pytest.raises(UnreadableValue, match="Shelf"):
        reader(4)
    assert ran == [4]


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_a_storage_that_cannot_be_used_is_found_before_the_code_runs(effect: EffectClass, tmp_path: Path) -> None:
    backends.use(Settings(home=str(tmp_path / "bare")))
    for options in ({"result_storage": "s3://lake"}, {"cache_policy": INPUTS.configure(key_storage="s3://keys")}):
        with pytest.raises(ConfigurationError, match="KAPSTAN_S3_ENDPOINT"):
            made(number, effect, **options)(1)
    assert ran == []


@pytest.mark.parametrize("effect", [PURE, ONCE])
@pytest.mark.parametrize("place", ["folder", "s3"])
def test_registers_stand_where_the_policy_says(
    effect: EffectClass, place: str, tmp_path: Path, setting: Settings
) -> None:
    if place == "s3" and not setting.s3_endpoint:
        place = "folder"
    where = tmp_path / "keys" if place == "folder" else f"s3://{setting.s3_bucket}/{setting.namespace}-keys"
    subject = made(number, effect, cache_policy=INPUTS.configure(key_storage=where))
    assert subject(6) == 6
    assert list(backends.current().register.all_keys()) == []
    storage = subject.spec.key_storage
    assert (record(subject, storage).state, record(subject, storage).epoch) == (RegisterState.COMMITTED, 1)
    backends.use(setting)
    assert subject(6) == 6
    assert made(number, effect, cache_policy=INPUTS)(6) == 6
    assert ran == [6, 6], "another storage is another register"


def test_a_parked_key_names_its_storage_and_is_resolved_there(tmp_path: Path) -> None:
    def broken(n: int) -> int:
        ran.append(n)
        raise KeyboardInterrupt

    policy = INPUTS.configure(key_storage=tmp_path / "keys")
    subject = made(broken, ONCE, cache_policy=policy, effect_horizon=0.0)
    with pytest.raises(KeyboardInterrupt):
        subject(1)
    while record(subject, subject.spec.key_storage).state is RegisterState.INTENT:
        continue
    with pytest.raises(ParkedRun) as raised:
        subject(1)
    text = str(raised.value).rpartition("(key ")[2].rstrip(")")
    assert text.partition("@")[2] == f"file://{tmp_path}/keys"
    parked = ParkedKeys(backends.current())
    with pytest.raises(NotFound):
        parked.find(text.partition("@")[0])
    key = parked.find(text)
    parked.say_applied(key, 11)
    assert subject(1) == 11
    assert ran == [1]


def test_a_storage_without_conditional_writes_holds_no_registers(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"key_storage=.*folder or s3://"):
        made(number, PURE, cache_policy=INPUTS.configure(key_storage=Shelf("keys")))
    assert isinstance(backends.current().conditional(f"file://{tmp_path}"), LocalStore)


@pytest.mark.parametrize("effect", [PURE, ONCE])
def test_a_completed_state_without_data_is_a_result(effect: EffectClass) -> None:
    def stated(n: int) -> Any:
        ran.append(n)
        return states.Completed(message="done")

    subject = made(stated, effect)
    assert (subject(1), subject(1), ran) == (None, None, [1])


class Odd(BaseException):
    """Neither an error nor a wish to end."""


@pytest.mark.parametrize("raised", [SystemExit, Odd])
def test_a_failure_that_ends_its_writer_holds_nobody_up(raised: type[BaseException]) -> None:
    class Ending(Exception):
        def __reduce__(self) -> Any:
            raise raised

    def fails(n: int) -> Any:
        ran.append(n)
        raise Ending

    subject = made(fails, ONCE)
    for _ in range(2):
        with pytest.raises(raised):
            subject(1)
        while record(subject).state is RegisterState.INTENT:
            continue
    assert ran == [1, 1], "what raised was not done, and is done again"


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit, Odd])
def test_a_result_that_ends_its_writer_is_known_to_have_happened(raised: type[BaseException]) -> None:
    class Ending:
        def __reduce__(self) -> Any:
            raise raised

    def ends(n: int) -> Any:
        ran.append(n)
        return Ending()

    subject = made(ends, ONCE)
    with pytest.raises(raised):
        subject(1)
    while record(subject).state is RegisterState.INTENT:
        continue
    with pytest.raises(MissingResult, match="its result cannot be kept"):
        subject(1)
    assert ran == [1]
