"""The chart's text: what can be held against the product without helm or a cluster."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "kapstan"
TEMPLATES = "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))


def leaves(values: dict[str, Any], path: str = "") -> list[str]:
    """Dotted paths of the values; an empty mapping is a value."""
    found: list[str] = []
    for name, value in values.items():
        here = f"{path}.{name}" if path else name
        found += leaves(value, here) if isinstance(value, dict) and value else [here]
    return found


def assert_has_schema(path: str) -> None:
    """Down to an object that the schema leaves open, as it does with what is Kubernetes' own."""
    root = schema = json.loads((CHART / "values.schema.json").read_text())
    for name in path.split("."):
        if "$ref" in schema:
            schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
        if "properties" not in schema:
            assert schema["type"] == "object", path
            return
        schema = schema["properties"][name]


VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize("path", leaves(VALUES))
def test_every_value_is_used_and_has_a_schema(path: str) -> None:
    parts = path.split(".")
    above = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    assert any(re.search(rf"\.Values\.{re.escape(one)}\b", TEMPLATES) for one in above)
    assert_has_schema(path)


def test_every_value_that_is_used_is_written_down() -> None:
    for used in set(re.findall(r"\.Values\.([A-Za-z0-9.]+)", TEMPLATES)):
        value: Any = VALUES
        for name in used.split("."):
            assert name in value, used
            value = value[name]


def test_the_chart_has_the_products_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == chart["version"] == version


def test_secrets_whose_keys_come_and_go_are_written_as_data() -> None:
    """helm leaves in the cluster what is taken out of `stringData`: a key would stay accepted after its rotation."""
    text = (CHART / "templates" / "secrets.yaml").read_text()
    constant, *others = re.split(r"^kind: Secret$", text, flags=re.MULTILINE)[1:]
    assert "stringData:" in constant, "the development services': always the same keys"
    assert len(others) == 3
    assert not any("stringData:" in other for other in others)
