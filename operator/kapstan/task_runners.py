"""Where ``.submit()`` inside a flow runs tasks: ``@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))``."""

from __future__ import annotations

from dataclasses import dataclass

from kapstan.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ThreadPoolTaskRunner:
    """Threads of the flow's process.

    Args:
        max_workers: how many tasks run at a time; None: the setting ``KAPSTAN_SUBMIT_LIMIT``.

    Raises:
        ConfigurationError: fewer than one worker.
    """

    max_workers: int | None = None

    def __post_init__(self) -> None:
        if self.max_workers is not None and self.max_workers < 1:
            raise ConfigurationError(f"max_workers={self.max_workers}: give at least 1")


ConcurrentTaskRunner = ThreadPoolTaskRunner
"""The name that Prefect 2 had for it."""
