"""Parameters that are too large for a FlowRun: stored by the command line, read by `kapstan run`; files and MinIO."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.flows.conftest import Runs

from kapstan import backend, codec, ids, signing_key
from kapstan.backend import Backend

KEY = "parameters/x"
LARGE = {"items": ["x" * 100] * 100, "note": "Grüße", "limit": None}


def store(runs: Runs, text: str, folder: Path) -> str:
    """The key that the command prints."""
    (folder / "parameters.json").write_text(text)
    attempt = runs.command(["flow-run", "store-parameters", "parameters.json"])
    assert attempt.ends() == 0, attempt.errors
    return attempt.output.strip()


def run(runs: Runs, key: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, how the attempt ended, and the message that its end carries."""
    run_id = ids.new_id()
    command = ["run", f"{Path(__file__).with_name('shapes.py')}:given", "--run-id", str(ids.to_uuid(run_id))]
    attempt = runs.command([*command, "--parameters-ref", key, *arguments])
    code = attempt.ends()
    end = runs.records.history(run_id).attempts[-1].end
    assert end is not None, attempt.errors
    return code, end.end, end.message


def test_stored_parameters_are_the_flows_and_go_over_those_of_the_deployment(runs: Runs, tmp_path: Path) -> None:
    key = store(runs, json.dumps(LARGE), tmp_path)
    deployments = json.dumps({"customer": "ann", "note": "of the Deployment"})
    assert run(runs, key, "--parameters", deployments)[:2] == (0, "Completed")
    assert [json.loads(line) for line in runs.effects] == [{"customer": "ann", **LARGE}]
    assert store(runs, json.dumps(LARGE), tmp_path) == key, "the same again is the same object"


def test_what_is_not_in_the_store_is_named(runs: Runs) -> None:
    code, end, message = run(runs, KEY)
    namespace = backend.current().settings.namespace
    assert (code, end) == (1, "Failed")
    assert f"the parameters at '{KEY}' of namespace '{namespace}' are not in the store" in message
    assert "`kapstan flow-run store-parameters`" in message
    assert runs.effects == []


def unsigned(_: Backend) -> bytes:
    return json.dumps(LARGE).encode()


def of_another_namespace(ours: Backend) -> bytes:
    key = signing_key.local_key(ours.settings.home_path)
    return codec.Codec("other", [key]).encode(LARGE, "value", KEY)


def by_another_key(ours: Backend) -> bytes:
    key = signing_key.SigningKey.of(bytes(32))
    return codec.Codec(ours.settings.namespace, [key]).encode(LARGE, "value", KEY)


def from_another_key_of_the_store(ours: Backend) -> bytes:
    return ours.codec.encode(LARGE, "value", "parameters/y")


def a_result(ours: Backend) -> bytes:
    return ours.codec.encode(LARGE, "result", KEY)


def pickled(ours: Backend) -> bytes:
    return ours.codec.encode({"items": {1, 2}}, "value", KEY)


def no_object(ours: Backend) -> bytes:
    return ours.codec.encode([1, 2], "value", KEY)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (unsigned, "is not signed; it was not written by Kapstan"),
        (of_another_namespace, "it was changed or moved"),
        (by_another_key, "set KAPSTAN_SIGNING_KEY"),
        (from_another_key_of_the_store, "it was changed or moved"),
        (a_result, "it was changed or moved"),
        (pickled, "is not JSON but pickled"),
        (no_object, "are no JSON object"),
    ],
)
def test_what_was_not_stored_as_parameters_of_this_namespace_is_refused(
    runs: Runs, made: Callable[[Backend], bytes], words: str
) -> None:
    ours = backend.current()
    ours.store.put(KEY, ours.codec.encode(LARGE, "value", KEY))
    assert run(runs, KEY)[:2] == (0, "Completed"), "what the faults are made of is good"
    ours.store.put(KEY, made(ours))
    code, end, message = run(runs, KEY)
    assert (code, end) == (1, "Failed")
    assert KEY in message
    assert words in message
    assert "`kapstan flow-run store-parameters`" in message
    assert len(runs.effects) == 1


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("parameters/../../other/x", "is no key of the store"),
        ("../other/parameters/x", "is no key of parameters"),
        ("results/of/another/run", "is no key of parameters"),
    ],
)
def test_a_key_that_is_none_of_parameters_is_refused_as_such(runs: Runs, key: str, words: str) -> None:
    code, end, message = run(runs, key)
    assert (code, end) == (1, "Failed")
    assert f"{key!r} {words}" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "parameters.json is not JSON: "),
        ("[1]", "parameters.json: give a JSON object"),
        ('{"ratio": NaN}', "parameter 'ratio' does not fit JSON exactly"),
    ],
)
def test_what_cannot_be_parameters_is_not_stored(runs: Runs, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "parameters.json").write_text(text)
    attempt = runs.command(["flow-run", "store-parameters", "parameters.json"])
    assert attempt.ends() != 0
    assert words in attempt.errors
    assert list(backend.current().store.keys("parameters/")) == []
