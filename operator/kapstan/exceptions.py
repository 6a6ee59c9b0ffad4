"""The exceptions a user catches, under the module name that Prefect users know. The tree stands in
``kapstan.errors``."""

from __future__ import annotations

from kapstan.errors import (
    BackendError,
    CancelledRun,
    ConfigurationError,
    CrashedRun,
    IdempotencyConflict,
    KapstanError,
    MappingLengthMismatch,
    MappingMissingIterable,
    MissingContextError,
    MissingResult,
    NotFound,
    ParameterError,
    ParameterTypeError,
    PausedRun,
    QueueFull,
    QueueUnavailable,
    RunFailed,
    SerializationError,
    SignatureError,
    StoreUnavailable,
    StoreUnsafe,
    TaskTimeout,
    UnfinishedRun,
    UnknownRun,
    ValueTooLarge,
)

FailedRun = RunFailed

__all__ = [
    "BackendError",
    "CancelledRun",
    "ConfigurationError",
    "CrashedRun",
    "FailedRun",
    "IdempotencyConflict",
    "KapstanError",
    "MappingLengthMismatch",
    "MappingMissingIterable",
    "MissingContextError",
    "MissingResult",
    "NotFound",
    "ParameterError",
    "ParameterTypeError",
    "PausedRun",
    "QueueFull",
    "QueueUnavailable",
    "RunFailed",
    "SerializationError",
    "SignatureError",
    "StoreUnavailable",
    "StoreUnsafe",
    "TaskTimeout",
    "UnfinishedRun",
    "UnknownRun",
    "ValueTooLarge",
]
