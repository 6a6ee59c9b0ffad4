"""Wrong input is refused twice in the same words: by the models here, by CEL and the schema in a real API server."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kapstan.errors import InvalidResource
from kapstan.resources import KINDS, crd, parse, validate

from tests.contract import apiserver
from tests.contract.bad_samples import BAD_SAMPLES, GOOD, BadSample

ROWS = pytest.mark.parametrize("sample", BAD_SAMPLES, ids=[sample.id for sample in BAD_SAMPLES])
CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="module")
def server() -> Iterator[apiserver.ApiServer]:
    """An API server that serves our four kinds."""
    missing = apiserver.missing()
    if missing:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"no API server: {', '.join(missing)} missing (looked in {apiserver.binaries()}; make cluster-up builds)")
    with apiserver.running() as started:
        for path in sorted(CRDS.glob("*.yaml")):
            answer = started.request(
                "POST",
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                yaml.safe_load(path.read_text()),
            )
            assert answer.code == 201, answer.message
        waited = started.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        assert waited.returncode == 0, waited.stderr
        yield started


def collection(manifest: dict[str, Any]) -> str:
    return f"/apis/kapstan.dev/v1alpha1/namespaces/default/{KINDS[manifest['kind']].plural}"


@ROWS
def test_models_refuse(sample: BadSample) -> None:
    old = parse(sample.old) if sample.old else None
    with pytest.raises(InvalidResource) as refusal:
        validate(parse(sample.manifest), old)
    assert refusal.value.problems == [(sample.path, worded(sample))]


def worded(sample: BadSample) -> str:
    """The local text: a missing field's text says so before ours, as the API server's does."""
    missing_field = sample.id == "run-without-deployment"
    return f"Required value: {sample.message}" if missing_field else sample.message


@ROWS
def test_api_server_refuses(server: apiserver.ApiServer, sample: BadSample) -> None:
    path = collection(sample.manifest)
    try:
        answer = send(server, path, sample)
    finally:
        server.request("DELETE", f"{path}/{sample.manifest['metadata']['name']}")
    if sample.message.startswith("unknown field"):
        assert answer.code == 400
        assert answer.message.endswith(f"strict decoding error: {sample.message}")
        return
    assert answer.code == 422, answer.body
    causes = [cause for cause in answer.causes if not cause[1].endswith("errors to complete validation")]
    assert [field for field, _ in causes] == [sample.path], causes
    expected = causes[0][1].removeprefix('Invalid value: "object": ') if sample.ours else causes[0][1]
    assert expected.removeprefix("Forbidden: ").removeprefix("Required value: ") == sample.message or (
        expected == sample.message
    )


def send(server: apiserver.ApiServer, path: str, sample: BadSample) -> apiserver.Answer:
    if sample.old is None:
        return server.request("POST", path, sample.manifest)
    stored = server.request("POST", path, sample.old)
    assert stored.code == 201, stored.message
    update = copy.deepcopy(sample.manifest)
    update["metadata"]["resourceVersion"] = stored.body["metadata"]["resourceVersion"]
    return server.request("PUT", f"{path}/{sample.manifest['metadata']['name']}", update)


@pytest.mark.parametrize("kind", GOOD)
def test_good_samples_are_accepted_with_the_same_defaults(server: apiserver.ApiServer, kind: str) -> None:
    """What the API server stores reads back as what the models make of the manifest by themselves."""
    local = parse(GOOD[kind])
    validate(local)
    path = collection(GOOD[kind])
    answer = server.request("POST", path, GOOD[kind])
    assert answer.code == 201, answer.message
    server.request("DELETE", f"{path}/sample")
    stored = parse(answer.body)
    assert stored.spec == local.spec
    assert stored.to_dict()["spec"] | local.to_dict()["spec"] == stored.to_dict()["spec"]


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child["description"]
        yield from fields(child, f"{path}.{name}")
        yield from fields(child.get("items", {}), f"{path}.{name}")


@pytest.mark.parametrize("kind", list(KINDS))
def test_kubectl_explains_every_field(server: apiserver.ApiServer, kind: str) -> None:
    definition = crd.definition(KINDS[kind])["spec"]
    schema = definition["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    plural = f"{definition['names']['plural']}.kapstan.dev"
    shown = server.kubectl("explain", plural, "--recursive", "--api-version=kapstan.dev/v1alpha1")
    assert shown.returncode == 0, shown.stderr
    for top in ("spec", "status"):
        for path, description in fields(schema[top], top):
            answer = server.request("GET", "/openapi/v3/apis/kapstan.dev/v1alpha1")
            assert answer.code == 200
            node = answer.body["components"]["schemas"][f"dev.kapstan.v1alpha1.{kind}"]
            for part in path.split("."):
                node = node.get("items", node)["properties"][part]
            assert node["description"] == description
            assert f"{path.rsplit('.', 1)[-1]}\t<" in shown.stdout
