"""crds/ holds exactly what the models say, and every field answers `kubectl explain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from kapstan.resources import KINDS, crd
from kapstan.resources.base import AGE, Model, Resource, Status

CRDS = Path(__file__).parents[3] / "crds"
BY_KIND = pytest.mark.parametrize("kind", list(KINDS))


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child.get("items", child), f"{path}.{name}")


def test_the_directory_is_what_the_models_say(tmp_path: Path) -> None:
    written = {path.name: path.read_text() for path in crd.write(tmp_path)}
    stored = {path.name: path.read_text() for path in CRDS.glob("*.yaml")}
    assert stored == written, "crds/ differs from the models: run `kapstan crds`"


def test_a_manifest_fits_into_the_annotation_of_a_plain_apply() -> None:
    for name, text in crd.rendered():
        assert len(text.encode()) < 100_000, name


@BY_KIND
def test_every_field_has_a_description(kind: str) -> None:
    schema = crd.schema(KINDS[kind])["properties"]
    for part in ("spec", "status"):
        for path, field in fields({"properties": {part: schema[part]}}, kind):
            assert field.get("description", "").endswith("."), f"{path} has no description that ends with a full stop"


@BY_KIND
def test_a_schema_is_structural(kind: str) -> None:
    for path, field in fields(crd.schema(KINDS[kind]), kind):
        assert "type" in field, path
        assert not {"anyOf", "oneOf", "allOf", "$ref", "title"} & set(field), path
        if field["type"] == "object" and path != f"{kind}.metadata":
            open_ended = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(field)
            assert open_ended or field["properties"], path


def test_replicas_are_always_present() -> None:
    replicas = crd.schema(KINDS["TaskWorker"])["properties"]["spec"]["properties"]["replicas"]
    assert replicas["default"] == 1


def test_a_run_cannot_choose_whose_rights_it_runs_with() -> None:
    spec = crd.schema(KINDS["FlowRun"])["properties"]["spec"]["properties"]
    assert set(spec) == {
        "deploymentRef",
        "parameters",
        "parametersRef",
        "idempotencyKey",
        "scheduledTime",
        "cancel",
        "suspend",
        "resume",
    }


def sample_kind(annotation: Any, default: Any) -> type[Resource]:
    """A kind with one field that the schema cannot carry."""

    class Spec(Model, frozen=True):
        value: annotation = Field(default=default, description="The value.")

    class Sample(Resource, frozen=True):
        kind: Literal["Sample"] = Field(default="Sample", description="Sample.")
        spec: Spec = Field(description="What is wanted.")
        status: Status = Field(default_factory=Status, description="What is.")
        plural = "samples"
        short_names = ()
        columns = (AGE,)

    return Sample


def test_a_union_is_refused_by_its_path() -> None:
    with pytest.raises(TypeError, match=r"Sample\.spec\.value: a union"):
        crd.schema(sample_kind(int | str, 1))


def test_a_default_object_that_differs_from_its_fields_is_refused() -> None:
    class Part(Model, frozen=True):
        size: int = Field(default=1, description="The size.")

    with pytest.raises(TypeError, match=r"Sample\.spec\.value: the default of size differs"):
        crd.schema(sample_kind(Part, Part(size=2)))
