"""Wrong input ends in a refusal, a condition or an exception that names the field, the value and the fix.

The table of bad samples is held against an API server in the contract tier; here is what only the whole product says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.errors import CommandFailed
from tests.e2e.conftest import Installed
from tests.e2e.serving import listening, serving, submitting
from tests.e2e.sink import Sink
from tests.e2e.workload.background import effect

from kapstan import backend, ids
from kapstan.codec import FORMAT, JSON, Codec
from kapstan.errors import CrashedRun, SerializationError
from kapstan.futures import Future
from kapstan.ports import Submission
from kapstan.signing_key import SigningKey

TYPED = "background.py:typed"


@pytest.fixture
def submits(installed: Installed) -> Iterator[backend.Backend]:
    with submitting(installed) as ours:
        yield ours


@pytest.fixture(scope="module")
def worker(installed: Installed) -> Iterator[None]:
    with serving(installed, "strict", 1):
        yield


@pytest.fixture
def sink(installed: Installed, tmp_path: Path) -> Iterator[Sink]:
    with listening(installed, tmp_path) as sink:
        yield sink


def _deploy(installed: Installed, name: str, pool: str) -> None:
    code = {"entrypoint": TYPED, "image": installed.image}
    installed.apply("Deployment", name, {"flow": code, "workPoolRef": {"name": pool}})


# ---------------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("FlowRun", {}, "deploymentRef is missing: name the Deployment (kapstan.dev) to run"),
        (
            "TaskWorker",
            {"tasks": ["shop.py"], "autoscaling": {"minReplicas": 5, "maxReplicas": 2}},
            "minReplicas (5) is greater than maxReplicas (2): lower minReplicas or raise maxReplicas",
        ),
    ],
)
def test_the_api_server_refuses_it_in_our_words(
    installed: Installed, kind: str, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandFailed) as refused:
        installed.apply(kind, "refused", spec)
    assert message in str(refused.value)


def test_a_run_of_a_deployment_that_does_not_exist_waits_and_says_so(installed: Installed) -> None:
    installed.run("homeless", "nobody")
    reason = '.status.conditions[?(@.type=="Degraded")].reason'
    run = installed.wait("flowruns", "homeless", reason, "DeploymentNotFound")
    (degraded,) = [told for told in run["status"]["conditions"] if told["type"] == "Degraded"]
    assert "nobody" in degraded["message"]
    assert not run["status"].get("attempts")
    _deploy(installed, "nobody", "pool")
    installed.wait("flowruns", "homeless", ".status.phase", "Failed")  # it lacks its parameter, but it was started


def test_a_parameter_of_the_wrong_type_fails_the_run(installed: Installed) -> None:
    _deploy(installed, "typed", "pool")
    installed.run("typed-1", "typed", parameters={"count": "many"})
    run = installed.wait("flowruns", "typed-1", ".status.phase", "Failed")
    assert len(run["status"]["attempts"]) == 1
    message = run["status"]["diagnosis"]["message"]
    assert "count" in message
    assert "many" in message
    assert "integer" in message


def test_an_unknown_setting_ends_the_run_with_its_name(installed: Installed) -> None:
    container = {"name": "flow", "env": [{"name": "KAPSTAN_REDIS_ULR", "value": "redis://elsewhere"}]}
    installed.apply("WorkPool", "misspelt", {"podTemplate": {"spec": {"containers": [container]}}})
    _deploy(installed, "misspelt", "misspelt")
    installed.run("misspelt-1", "misspelt", parameters={"count": 1})
    run = installed.wait("flowruns", "misspelt-1", ".status.phase", "Crashed")
    assert len(run["status"]["attempts"]) == 1
    assert run["status"]["diagnosis"]["category"] == "ConfigError"
    assert (
        "KAPSTAN_REDIS_ULR is no setting of Kapstan; did you mean KAPSTAN_REDIS_URL?"
        in (run["status"]["diagnosis"]["message"])
    )


# ---------------------------------------------------------------------------------------------- background runs


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("how", ["unsigned", "another key", "another run"])
def test_an_envelope_that_is_not_ours_is_never_executed(submits: backend.Backend, sink: Sink, how: str) -> None:
    run_id = ids.new_id()
    arguments = [[sink.url, "forged"], {}]
    other = Codec(submits.settings.namespace, [SigningKey.of(b"\1" * 32)])
    ours = submits.codec
    envelope = {
        "unsigned": FORMAT + JSON + bytes(20) + f'[["{sink.url}","forged"],{{}}]'.encode(),
        "another key": other.encode(arguments, "arguments", run_id),
        "another run": ours.encode(arguments, "arguments", ids.new_id()),
    }[how]
    submits.queue.submit(Submission(run_id, effect.spec.identity, envelope, "0" * 16))
    with pytest.raises(CrashedRun, match="its arguments cannot be read"):
        Future[str](run_id).result(30)
    assert effect.delay(sink.url, "honest").result(30)
    assert set(sink.count("begins")) == {"honest"}


@pytest.mark.usefixtures("submits")
def test_an_argument_that_cannot_be_serialised_is_refused_where_it_is_given() -> None:
    with pytest.raises(SerializationError, match=r"argument 'tag' of .*effect.*lock"):
        effect.delay("", threading.Lock())  # pyright: ignore[reportArgumentType]
