"""Manifests are read as kubectl reads them, and what `kapstan get -o yaml` prints is read back as the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kapstan.cli.manifests import as_yaml, read
from kapstan.errors import ConfigurationError, InvalidResource

RUN = """
apiVersion: kapstan.dev/v1alpha1
kind: FlowRun
metadata: {name: run}
spec:
  deploymentRef: {name: report}
  parameters:
"""


def parameters(tmp_path: Path, text: str) -> dict[str, Any]:
    path = tmp_path / "run.yaml"
    path.write_text(RUN + "".join(f"    {line}\n" for line in text.splitlines()))
    (manifest,) = read(path, "team")
    return manifest["spec"]["parameters"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-02-29", "2024-02-29"),
        ("2024-02-29T10:00:00Z", "2024-02-29T10:00:00Z"),
        ("12:30", "12:30"),
        ("12:30:45.5", "12:30:45.5"),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("12", 12),
        ("-1_000", -1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 15),
        ("0b11", 3),
        ("0", 0),
        ("08", 8.0),
        ('"007"', "007"),
        ("9007199254740993", 9007199254740993),
        ("yes", True),
        ("~", None),
        ("1.2.3", "1.2.3"),
        ("[1, {a: 2}]", [1, {"a": 2}]),
    ],
)
def test_values_are_what_kubectl_sends(tmp_path: Path, text: str, value: Any) -> None:
    found = parameters(tmp_path, f"x: {text}")["x"]
    assert found == value
    assert type(found) is type(value)


def test_keys_become_text_and_merges_are_done(tmp_path: Path) -> None:
    found = parameters(tmp_path, "1: one\n2.5: yes\nbase: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}")
    assert found == {"1": "one", "2.5": True, "base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x: .nan", "spec.parameters.x: nan is no value of JSON"),
        ("x: {y: [1, .inf]}", r"spec.parameters.x.y\[1\]: inf is no value of JSON"),
        ("x: !!binary aGk=", "spec.parameters.x: bytes is no value of JSON"),
        ("x: 1\nx: 2", "the key 'x' stands twice"),
        ("x: [", "is no YAML"),
        ("x: !!python/object:os.system {}", "is no YAML"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parameters(tmp_path, text)


STORED = {
    "apiVersion": "kapstan.dev/v1alpha1",
    "kind": "FlowRun",
    "metadata": {
        "name": "run",
        "namespace": "team",
        "uid": "01a22052-46c3-7926-86a8-7d9ec89df140",
        "resourceVersion": "43",
        "generation": 1,
        "creationTimestamp": "2026-11-28T04:03:12.707000Z",
        "labels": {"a": "b"},
        "managedFields": [],
        "ownerReferences": [
            {
                "apiVersion": "kapstan.dev/v1alpha1",
                "kind": "Deployment",
                "name": "report",
                "uid": "u",
                "controller": True,
            }
        ],
    },
    "spec": {
        "deploymentRef": {"name": "report"},
        "parameters": {"day": "2024-02-29", "at": "12:30", "code": "007", "ratio": "1e3", "text": "grüße", "no": "no"},
    },
    "status": {"phase": "Completed", "message": "returned"},
}


@pytest.mark.parametrize("document", [STORED, {"apiVersion": "v1", "kind": "List", "items": [STORED]}])
def test_what_get_prints_is_read_back_without_what_the_server_added(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "backup.yaml"
    path.write_text(as_yaml(document))
    wanted = {
        **{key: STORED[key] for key in ("apiVersion", "kind", "spec")},
        "metadata": {"name": "run", "namespace": "team", "labels": {"a": "b"}},
    }
    assert read(path, "other") == [wanted]
    # Readers that know dates and base 60 see the same texts, too.
    assert yaml.safe_load(as_yaml(document)) == document


def test_lists_within_lists_empty_lists_and_other_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "all.yaml"
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}
    inner = {"apiVersion": "kapstan.dev/v1alpha1", "kind": "FlowRunList", "items": [STORED]}
    path.write_text(
        "---\n".join(map(as_yaml, [{"apiVersion": "v1", "kind": "List", "items": [inner, other]}, {"kind": "List"}]))
    )
    assert [manifest["metadata"]["name"] for manifest in read(path, "team")] == ["run"]
    assert "ConfigMap 'settings' is not of kapstan.dev and was left out" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "text", "{kind: FlowRun}", "{metadata: run}", "{kind: List, items: [1]}"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="a document is no manifest"):
        read(path, "team")


def test_a_name_that_is_null_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(RUN.replace("{name: run}", "{name: null}"))
    with pytest.raises(InvalidResource, match="FlowRun '' is invalid"):
        read(path, "team")


def test_bytes_that_are_no_utf_8_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + RUN.encode())
    assert read(path, "team")
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigurationError, match="is no YAML"):
        read(path, "team")


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path, merge: bool) -> None:
    """Nine lines that stand for a billion values."""
    lines = ["a0: &a0 {x: 1}"]
    for n in range(1, 10):
        aliases = ", ".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} {{<<: [{aliases}]}}" if merge else f"a{n}: &a{n} [{aliases}]")
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigurationError, match="its aliases stand for more than 100,000 values"):
        read(file, "default")


def test_an_alias_of_what_it_stands_in_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "circle.yaml"
    file.write_text("a: &a [1, *a]")
    with pytest.raises(ConfigurationError, match="its aliases stand for more than"):
        read(file, "default")
