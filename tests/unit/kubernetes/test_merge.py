"""Strategic merge of pod templates, as kubectl patches pods."""

from __future__ import annotations

from typing import Any

import pytest

from kapstan.cluster.kubernetes.merge import merged

BASE: dict[str, Any] = {
    "spec": {
        "containers": [
            {
                "name": "flow",
                "image": "a",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "a"}],
    }
}

ENV = BASE["spec"]["containers"][0]["env"]


def container(patch: dict[str, Any]) -> dict[str, Any]:
    return merged(BASE, {"spec": {"containers": [{"name": "flow", **patch}]}})["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("patch", "field", "expected"),
    [
        ({"resources": {"limits": {"memory": "1Gi"}}}, "resources", {"limits": {"memory": "1Gi"}}),
        ({"image": "b"}, "image", "b"),
        (
            {"env": [{"name": "C", "value": "3"}]},
            "env",
            [*ENV, {"name": "C", "value": "3"}],
        ),
        (
            {"env": [{"name": "A", "value": "2"}]},
            "env",
            [{"name": "A", "value": "2"}, ENV[1]],
        ),
        # One source of a value replaces the other: both at once would be refused.
        ({"env": [{"name": "B", "value": "2"}]}, "env", [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]),
        ({"env": [{"name": "A", "$patch": "delete"}]}, "env", [ENV[1]]),
        ({"env": [{"$patch": "replace"}, {"name": "Z", "value": "0"}]}, "env", [{"name": "Z", "value": "0"}]),
        (
            {"volumeMounts": [{"name": "big", "mountPath": "/tmp"}]},
            "volumeMounts",
            [{"name": "big", "mountPath": "/tmp"}],
        ),
    ],
)
def test_container_fields(patch: dict[str, Any], field: str, expected: Any) -> None:
    assert container(patch)[field] == expected


def test_a_second_container_is_added() -> None:
    result = merged(BASE, {"spec": {"containers": [{"name": "proxy", "image": "p"}]}})
    assert [c["name"] for c in result["spec"]["containers"]] == ["flow", "proxy"]


def test_lists_without_a_key_are_replaced_and_null_removes() -> None:
    result = merged(BASE, {"spec": {"tolerations": [{"key": "b"}], "volumes": None}})
    assert result["spec"]["tolerations"] == [{"key": "b"}]
    assert "volumes" not in result["spec"]


def test_ports_of_one_number_and_two_protocols_are_two() -> None:
    base = {"ports": [{"containerPort": 53}]}
    patch = {"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "name": "dns"}]}
    assert merged(base, patch)["ports"] == [
        {"containerPort": 53, "name": "dns"},
        {"containerPort": 53, "protocol": "UDP"},
    ]


def test_neither_side_is_changed() -> None:
    patch = {"spec": {"containers": [{"name": "flow", "env": [{"name": "A", "$patch": "delete"}]}]}}
    before = repr((BASE, patch))
    merged(BASE, patch)
    assert repr((BASE, patch)) == before
