"""What a rule of ours refuses to be changed in a stored FlowRun."""

from __future__ import annotations

from tests.contract.bad_samples.good import GOOD, Manifest
from tests.contract.bad_samples.row import ABSENT, BadSample, changed, refused_update

ANOTHER_RUN = "create another FlowRun"


def by_reference(key: str) -> Manifest:
    """A FlowRun whose parameters stand in the object store."""
    manifest = changed("FlowRun", "spec.parametersRef", {"key": key})
    del manifest["spec"]["parameters"]
    return manifest


UPDATES = (
    BadSample(
        "other-parametersRef",
        by_reference("runs/b/parameters"),
        "spec.parametersRef",
        f"parametersRef is immutable: {ANOTHER_RUN}",
        old=by_reference("runs/a/parameters"),
        ours=True,
    ),
    refused_update(
        "other-deployment",
        ("spec.deploymentRef.name", "another"),
        "spec.deploymentRef",
        f"deploymentRef is immutable: {ANOTHER_RUN}",
    ),
    *(
        refused_update(
            f"{how}-{field}", (f"spec.{field}", value), f"spec.{field}", f"{field} is immutable: {ANOTHER_RUN}"
        )
        for field, other in (
            ("parameters", {"region": "north", "nothing": None, "nested": {"list": [1, None]}}),
            ("idempotencyKey", "order-18"),
            ("scheduledTime", "2026-01-02T00:00:00Z"),
        )
        for how, value in (("other", other), ("removed", ABSENT))
    ),
    *(
        refused_update(
            f"late-{field}",
            (f"spec.{field}", GOOD["FlowRun"]["spec"][field]),
            f"spec.{field}",
            f"{field} is immutable: {ANOTHER_RUN}",
            stored=changed("FlowRun", f"spec.{field}", ABSENT),
        )
        for field in ("parameters", "idempotencyKey", "scheduledTime")
    ),
    refused_update(
        "renamed-parameter",
        ("spec.parameters", {"area": "south", "nothing": None, "nested": {"list": [1, None]}}),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "renamed-deep-parameter",
        ("spec.parameters.nested", {"items": [1, None]}),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "parameter-less",
        ("spec.parameters.region", ABSENT),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "parameter-nulled",
        ("spec.parameters.region", None),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "parameter-more",
        ("spec.parameters.extra", 1),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "deep-parameter",
        ("spec.parameters.nested.list", [1, 2]),
        "spec.parameters",
        f"parameters is immutable: {ANOTHER_RUN}",
    ),
    refused_update(
        "cancel-taken-back",
        ("spec.cancel", False),
        "spec.cancel",
        f"cancel cannot be taken back: {ANOTHER_RUN}",
        stored=changed("FlowRun", "spec.cancel", True),
    ),
    refused_update(
        "resume-lowered",
        ("spec.resume", 1),
        "spec.resume",
        "resume can only grow: raise it by one to go on with the run",
        stored=changed("FlowRun", "spec.resume", 2),
    ),
    refused_update(
        "cancel-removed",
        ("metadata.labels", {}),
        "spec.cancel",
        f"cancel cannot be taken back: {ANOTHER_RUN}",
        stored=changed("FlowRun", "spec.cancel", True),
    ),
)
