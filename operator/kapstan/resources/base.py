"""What the four kinds have in common: the envelope, conditions, and rules that hold in two places at once.

The pydantic models of this package are the single source of the custom resources: `crd` turns them into the
manifests that the API server enforces, and `from_dict` and `validate` enforce the same here, for local mode and for
clear errors before anything is sent. Reconcilers, adapters and commands read manifests through them. They know no
client, no reconciler and no queue; a value is frozen, and a change is a `model_copy(update=...)`.

A manifest is checked in two steps, as the API server does it: first its shape (`from_dict`: types, ranges, enums,
unknown fields), then our rules (`validate`), which may compare fields with each other and with the stored object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, PydanticCustomError

from kapstan.errors import InvalidResource
from kapstan.resources.rule import Rule
from kapstan.resources.wording import problems_of

GROUP = "kapstan.dev"
VERSION = "v1alpha1"
API_VERSION: Final = "kapstan.dev/v1alpha1"
CATEGORY = "kapstan"

NAME_LIMIT = 52
"""Characters in the name of a long-lived resource: a child's name adds a dash and ten more, and labels end at 63."""

POD_TEMPLATE_LIMIT = 64 * 1024
"""Bytes of a podTemplate: it stands in every Job or ReplicaSet that is made from it, each an object of etcd."""

Problem = tuple[str, str]
"""Field path (``spec.schedules[0].cron``) and what is wrong with the field."""

_WIRE = {"wire": True}
"""Validation context of `from_dict`: the values come from a manifest, where null means absent."""


_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", re.IGNORECASE)
"""What the API server takes for a date-time: RFC 3339, zone included; `datetime.fromisoformat` takes more."""


def _read_time(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.upper() if _DATE_TIME.match(value) else "")
        except ValueError:
            raise PydanticCustomError("date_time", "not a date-time") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise PydanticCustomError("date_time", "not a date-time")
        return value.astimezone(UTC)
    return value


def _write_time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


Timestamp = Annotated[
    datetime, BeforeValidator(_read_time), PlainSerializer(_write_time, return_type=str, when_used="json")
]
"""An aware datetime in UTC; RFC 3339 with a ``Z`` in manifests."""

JsonObject = dict[str, Any]
"""An object that the schema leaves open; its values are what JSON can carry."""

_ANY_VALUE: JsonDict = {"additionalProperties": {"nullable": True, "x-kubernetes-preserve-unknown-fields": True}}
Parameters = Annotated[JsonObject, Field(json_schema_extra=_ANY_VALUE)]
"""Parameters by name. Declared as a map of any values, because CEL compares the keys of such a map and not those of an
object with unknown fields; nullable, because the API server would drop a parameter that is null."""


class Model(BaseModel, frozen=True):
    """A part of a resource: camelCase in manifests, snake_case in Python, nothing unknown, nothing coerced."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, extra="forbid", strict=True, protected_namespaces=()
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _read_null(cls, value: object, info: ValidationInfo) -> object:
        """A null in a manifest is an absent field, as for the API server."""
        if value is not None or info.context is not _WIRE or info.field_name is None:
            return value
        field = cls.model_fields[info.field_name]
        if field.is_required():
            raise PydanticCustomError("missing", "Field required")
        return field.get_default(call_default_factory=True, validated_data={})

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        validations = [rule.as_validation() for rule in cls.rules if rule.cel is not None]
        if validations:
            schema["x-kubernetes-validations"] = validations
        answered_by_rule = {rule.field for rule in cls.rules if rule.reason == "FieldValueRequired"}
        if answered_by_rule & set(schema.get("required", [])):
            schema["required"] = [field for field in schema["required"] if field not in answered_by_rule]
        return schema


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
SUBDOMAIN = f"^{_SUBDOMAIN}$"
"""What the name of an object may be: labels with dots between them."""
LABEL = f"^{_LABEL}$"
"""Lower case letters, digits and dashes: what fits into a name and a label."""


class Reference(Model, frozen=True):
    """Another resource in the same namespace."""

    name: str = Field(max_length=253, pattern=SUBDOMAIN, description="Name of the resource, in the same namespace.")


class OwnerReference(Model, frozen=True):
    """Who this resource belongs to; deleted with its owner."""

    api_version: str = Field(description="Group and version of the owner.")
    kind: str = Field(description="Kind of the owner.")
    name: str = Field(description="Name of the owner.")
    uid: str = Field(description="Unique id of the owner.")
    controller: bool | None = Field(default=None, description="Whether the owner manages this resource.")
    block_owner_deletion: bool | None = Field(
        default=None, description="Whether the owner's foreground deletion waits for this."
    )


class Metadata(Model, frozen=True):
    """The part of ObjectMeta that anything here reads or writes; what else the API server adds is dropped."""

    name: str = Field(description="Name, unique among its kind in the namespace.")
    namespace: str = Field(default="default", description="Namespace.")
    uid: str | None = Field(default=None, description="Unique id, given at creation.")
    resource_version: str | None = Field(default=None, description="Opaque version of the stored object.")
    generation: int | None = Field(default=None, description="Grows with every change of the spec.")
    creation_timestamp: Timestamp | None = Field(default=None, description="When the object was created.")
    deletion_timestamp: Timestamp | None = Field(default=None, description="When its deletion was asked for.")
    labels: dict[str, str] = Field(default_factory=dict[str, str], description="Labels.")
    annotations: dict[str, str] = Field(default_factory=dict[str, str], description="Annotations.")
    owner_references: list[OwnerReference] = Field(default_factory=list[OwnerReference], description="Owners.")

    not_ours: ClassVar[frozenset[str]] = frozenset(
        {"managedFields", "finalizers", "generateName", "deletionGracePeriodSeconds", "selfLink"}
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_not_ours(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        return {key: item for key, item in fields.items() if key not in cls.not_ours}


class Condition(Model, frozen=True):
    """One aspect of the state, as Kubernetes' own resources tell it."""

    type: str = Field(description="Aspect of the state, such as Ready, Progressing or Degraded.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(description="Why, as one stable CamelCase word that programs may rely on.")
    message: str = Field(default="", description="Why, for a human, with the fix where there is one.")
    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that this condition is about."
    )
    last_transition_time: Timestamp | None = Field(default=None, description="When the status last changed.")


def set_condition(conditions: Sequence[Condition], condition: Condition, *, now: datetime) -> list[Condition]:
    """The conditions with this one in its place (by type), in order of their types.

    ``last_transition_time`` becomes ``now`` only where the status differs from before.
    """
    by_type = {present.type: present for present in conditions}
    before = by_type.get(condition.type)
    since = before.last_transition_time if before and before.status == condition.status else None
    by_type[condition.type] = condition.model_copy(update={"last_transition_time": since or now})
    return [by_type[key] for key in sorted(by_type)]


class Status(Model, frozen=True):
    """What every kind's status begins with."""

    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that this status was computed from."
    )
    conditions: list[Condition] = Field(
        default_factory=list[Condition],
        description="Conditions by type: Ready, Progressing, Degraded and the kind's own.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )

    def condition(self, type_: str) -> Condition | None:
        return next((condition for condition in self.conditions if condition.type == type_), None)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; priority 1 shows with ``-o wide`` only."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    priority: int = 0


AGE = Column("Age", ".metadata.creationTimestamp", "Time since the creation.", "date")


def name_rules(limit: int) -> tuple[Rule, ...]:
    """A name must fit into the names and labels of what is made from the resource.

    The first is the API server's own rule, in its words.
    """
    return (
        Rule(
            "metadata.name",
            'Invalid value: "%s": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '
            "'-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for "
            f"validation is '{_SUBDOMAIN}')",
            lambda new, _: re.fullmatch(_SUBDOMAIN, new.metadata.name) is not None,
            arguments=("metadata.name",),
        ),
        Rule(
            "metadata.name",
            f"name %s is too long: use at most {limit} characters, so that names made from it fit into 63",
            lambda new, _: len(new.metadata.name) <= limit,
            f"self.metadata.name.size() <= {limit}",
            arguments=("metadata.name",),
        ),
        Rule(
            "metadata.name",
            "name %s contains a dot: use lower case letters, digits and dashes only",
            lambda new, _: "." not in new.metadata.name,
            "!self.metadata.name.contains('.')",
            arguments=("metadata.name",),
        ),
    )


class Resource(Model, frozen=True):
    """A custom resource: the envelope. A kind adds ``kind``, ``spec`` and ``status`` and says how kubectl shows it."""

    api_version: Literal["kapstan.dev/v1alpha1"] = Field(
        default=API_VERSION, description="Group and version of this kind."
    )
    kind: str = Field(description="The kind.")
    metadata: Metadata = Field(description="Standard object metadata.")
    spec: Model = Field(description="What is wanted.")
    status: Status = Field(default_factory=Status, description="What is, written by the operator.")

    plural: ClassVar[str]
    short_names: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[Column, ...]]
    scale: ClassVar[Mapping[str, str] | None] = None
    selectable_fields: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """(kind, namespace, name): what a work queue holds."""
        return self.kind, self.metadata.namespace, self.metadata.name

    @classmethod
    def from_dict(cls, manifest: Mapping[str, Any]) -> Self:
        """Read a manifest.

        Raises:
            InvalidResource: the API server would refuse its shape; with every problem at once.
        """
        try:
            return cls.model_validate(manifest, context=_WIRE, by_name=False, by_alias=True)
        except ValidationError as error:
            metadata = manifest.get("metadata")
            name = str(cast("Mapping[str, Any]", metadata).get("name") or "") if isinstance(metadata, Mapping) else ""
            raise InvalidResource(problems_of(error, cls), kind=cls.kind_name(), name=name) from None

    def to_dict(self) -> dict[str, Any]:
        """The manifest: camelCase, what was never set left out (the schema's defaults fill it)."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True) | {
            "apiVersion": self.api_version,
            "kind": self.kind,
        }

    @classmethod
    def kind_name(cls) -> str:
        return str(cls.model_fields["kind"].default)
