"""Wrong input is refused twice in the same words: by the models here, by CEL and the schema in a real API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from tests.contract import apiserver
from tests.contract.bad_samples import BAD_SAMPLES, GOOD, GOOD_STATUS, BadSample

from kapstan.errors import InvalidResource
from kapstan.resources import KINDS, crd, parse, validate

ROWS = pytest.mark.parametrize("sample", BAD_SAMPLES, ids=[sample.id for sample in BAD_SAMPLES])
pytestmark = pytest.mark.timeout(60, func_only=True)  # building the API server, once, takes longer


@pytest.fixture
def collection(api_server: apiserver.ApiServer) -> Iterator[Any]:
    """The path of a manifest's kind; every object of the kinds that were asked for is gone afterwards."""
    used: set[str] = set()

    def path_of(manifest: dict[str, Any]) -> str:
        path = f"/apis/kapstan.dev/v1alpha1/namespaces/default/{KINDS[manifest['kind']].plural}"
        used.add(path)
        return path

    yield path_of
    for path in used:
        answer = api_server.request("DELETE", path)
        assert answer.code == 200, answer.message


@ROWS
def test_models_refuse(sample: BadSample) -> None:
    old = parse(sample.old) if sample.old else None
    with pytest.raises(InvalidResource) as refusal:
        validate(parse(sample.manifest), old)
    assert refusal.value.problems == [(sample.path, sample.message)]


@ROWS
def test_api_server_refuses(api_server: apiserver.ApiServer, collection: Any, sample: BadSample) -> None:
    answer = send(api_server, collection(sample.manifest), sample)
    if sample.message.startswith("unknown field"):
        assert answer.code == 400
        assert answer.message.endswith(f"strict decoding error: {sample.message}")
    else:
        assert answer.code == 422, answer.body
        assert causes(answer, ours=sample.ours) == [(sample.path, sample.message)]


def send(api_server: apiserver.ApiServer, path: str, sample: BadSample) -> apiserver.Answer:
    """Create the sample; or update a stored object with it, or the status of one."""
    status = sample.path.startswith("status")
    old = GOOD[sample.manifest["kind"]] if status else sample.old
    if old is None:
        return api_server.request("POST", path, sample.manifest)
    stored = api_server.request("POST", path, old)
    assert stored.code == 201, stored.message
    update = copy.deepcopy(sample.manifest)
    update["metadata"]["resourceVersion"] = stored.body["metadata"]["resourceVersion"]
    return api_server.request("PUT", f"{path}/{update['metadata']['name']}{'/status' if status else ''}", update)


def causes(answer: apiserver.Answer, *, ours: bool) -> list[tuple[str, str]]:
    """What the API server blames, without what it adds: its note that rules were not checked, the scale subresource's
    second opinion, and the kind of error in front of a rule's message."""
    said = [(field, text) for field, text in answer.causes if field != "<nil>" and not field.startswith(".")]
    if not ours:
        return said
    marks = ('Invalid value: "object": ', "Forbidden: ", "Required value: ")
    return [(field, next(text.removeprefix(mark) for mark in marks if text.startswith(mark))) for field, text in said]


@pytest.mark.parametrize("kind", GOOD)
def test_good_samples_get_the_same_defaults(api_server: apiserver.ApiServer, collection: Any, kind: str) -> None:
    """What the API server stores reads back as what the models make of the manifest by themselves."""
    local = parse(GOOD[kind])
    validate(local)
    answer = api_server.request("POST", collection(GOOD[kind]), GOOD[kind])
    assert answer.code == 201, answer.message
    assert parse(answer.body).spec == local.spec


@pytest.mark.parametrize("kind", GOOD_STATUS)
def test_a_full_status_comes_back_unchanged(api_server: apiserver.ApiServer, collection: Any, kind: str) -> None:
    local = parse(GOOD[kind] | {"status": GOOD_STATUS[kind]})
    stored = api_server.request("POST", collection(GOOD[kind]), GOOD[kind]).body
    update = stored | {"status": local.to_dict()["status"]}
    answer = api_server.request("PUT", f"{collection(stored)}/{stored['metadata']['name']}/status", update)
    assert answer.code == 200, answer.message
    assert parse(answer.body).status == local.status


def test_a_scale_carries_replicas_and_selector(api_server: apiserver.ApiServer, collection: Any) -> None:
    worker = GOOD["TaskWorker"]
    stored = api_server.request("POST", collection(worker), worker).body
    path = f"{collection(worker)}/{stored['metadata']['name']}"
    api_server.request("PUT", f"{path}/status", stored | {"status": GOOD_STATUS["TaskWorker"]})
    scaled = api_server.kubectl("scale", "taskworker", stored["metadata"]["name"], "--replicas=3")
    assert scaled.returncode == 0, scaled.stderr
    scale = api_server.request("GET", f"{path}/scale").body
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": GOOD_STATUS["TaskWorker"]["selector"]}


def test_kubectl_lists_every_kind_by_category_and_short_name(api_server: apiserver.ApiServer, collection: Any) -> None:
    for manifest in GOOD.values():
        api_server.request("POST", collection(manifest), manifest)
    listed = api_server.kubectl("get", "kapstan", "-o", "name")
    assert sorted(listed.stdout.split()) == sorted(f"{kind.lower()}.kapstan.dev/sample" for kind in GOOD), listed.stderr
    for model in KINDS.values():
        shown = api_server.kubectl("get", model.short_names[0], "-o", "wide")
        assert shown.returncode == 0, shown.stderr
        for column in model.columns:
            assert column.name.upper() in shown.stdout


def test_runs_are_selected_by_phase_in_the_server(api_server: apiserver.ApiServer, collection: Any) -> None:
    stored = api_server.request("POST", collection(GOOD["FlowRun"]), GOOD["FlowRun"]).body
    path = collection(stored)
    api_server.request(
        "PUT", f"{path}/{stored['metadata']['name']}/status", stored | {"status": GOOD_STATUS["FlowRun"]}
    )
    selected = api_server.request("GET", path, query="&fieldSelector=status.phase=Failed")
    others = api_server.request("GET", path, query="&fieldSelector=status.phase!=Failed")
    assert (len(selected.body["items"]), len(others.body["items"])) == (1, 0)


def described(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child["description"]
        yield from described(child.get("items", child), f"{path}.{name}")


@pytest.mark.parametrize("kind", list(KINDS))
def test_kubectl_explains_every_field(api_server: apiserver.ApiServer, kind: str) -> None:
    """The names by kubectl, the texts by the document that kubectl reads them from."""
    own = crd.schema(KINDS[kind])["properties"]
    shown = api_server.kubectl("explain", KINDS[kind].plural, "--recursive", "--api-version=kapstan.dev/v1alpha1")
    assert shown.returncode == 0, shown.stderr
    document = api_server.request("GET", "/openapi/v3/apis/kapstan.dev/v1alpha1")
    published = document.body["components"]["schemas"][f"dev.kapstan.v1alpha1.{kind}"]["properties"]
    for part in ("spec", "status"):
        assert sorted(described(published[part])) == sorted(described(own[part]))
        for path, _ in described(own[part]):
            assert f"{path.rpartition('.')[2]}\t<" in shown.stdout
    one = api_server.kubectl("explain", f"{KINDS[kind].plural}.spec", "--api-version=kapstan.dev/v1alpha1")
    assert "<no description>" not in one.stdout
    assert "What is wanted." in one.stdout
