"""Settings: one frozen record, read from ``KAPSTAN_*`` environment variables, each field documented where it stands.

An unknown ``KAPSTAN_*`` name is an error that names the nearest known one. ``PREFECT_*`` names of the same meaning are
accepted, ours win; other ``PREFECT_*`` names are ignored with one warning. A variable that is empty is not set, and
white space around a value does not count. For a Service called ``kapstan-redis`` Kubernetes injects
``KAPSTAN_REDIS_PORT=tcp://...`` and the like: names of that shape are ignored everywhere.
"""

from __future__ import annotations

import difflib
import errno
import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from kapstan.errors import ConfigurationError, UnknownSetting


def _setting(
    default: Any,
    doc: str,
    *,
    alias: str = "",
    secret: bool = False,
    least: float = 0,
    most: float = math.inf,
    check: Callable[[str], str] = str,
) -> Any:
    """``least`` and ``most`` bound a number; ``check`` gives a text in its final form, or raises ValueError with what
    fits."""
    metadata = {"doc": doc, "alias": alias, "secret": secret, "least": least, "most": most, "check": check}
    return field(default=default, repr=not secret, metadata=metadata)


def _level(text: str) -> str:
    numbers = logging.getLevelNamesMapping()
    for name, number in numbers.items():
        if text.upper() == name or (text == str(number) and number):
            return name
    raise ValueError("give DEBUG, INFO, WARNING, ERROR or CRITICAL")


_NAMESPACE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise ValueError("give 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit")
    return text


def _address(*schemes: str) -> Callable[[str], str]:
    """A check for an address; the value itself may hold a password and is never shown."""

    def check(text: str) -> str:
        if text.partition("://")[0].lower() not in schemes or "://" not in text:
            raise ValueError(f"give an address that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return text

    return check


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"give {' or '.join(words)}")
        return text

    return check


@dataclass(frozen=True, slots=True)
class Settings:
    """What an environment says. ``Settings.from_env()`` reads it; fields that hold secrets are left out of ``repr``."""

    home: str = _setting(
        "~/.kapstan", "Folder of the local key, the embedded server, journals and results.", alias="PREFECT_HOME"
    )
    namespace: str = _setting(
        "default", "Trust domain: queue keys, signatures and store prefixes carry it.", check=_namespace
    )
    redis_url: str = _setting(
        "",
        "redis://, rediss://, unix:// or redis+sentinel:// address; empty: the embedded server of this home.",
        secret=True,
        check=_address("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
    )
    redis_retry_seconds: float = _setting(30.0, "How long a call waits for a Redis that is away before it raises.")
    s3_endpoint: str = _setting(
        "", "http(s)://host:port of the object store; empty: files under the home.", check=_address("http", "https")
    )
    s3_bucket: str = _setting("kapstan", "Bucket of journals, results and registers.")
    s3_credentials: str = _setting(
        "keys",
        "keys: the next two. aws: none of ours but what AWS gives a pod or machine: AWS_ACCESS_KEY_ID, a web identity "
        "(AWS_WEB_IDENTITY_TOKEN_FILE), a container's service, or instance metadata.",
        check=_one_of("keys", "aws"),
    )
    s3_access_key: str = _setting("", "Access key of the object store.", secret=True)
    s3_secret_key: str = _setting("", "Secret key of the object store.", secret=True)
    s3_region: str = _setting("us-east-1", "Region that requests are signed for.")
    s3_ca_file: str = _setting("", "PEM file of the authority that signed the object store's certificate.")
    store_deadline_seconds: float = _setting(60.0, "How long a write is repeated while the object store is away.")
    signing_key: str = _setting(
        "", "Base64 of 32 bytes that sign this namespace's envelopes; empty: the key file of the home.", secret=True
    )
    signing_key_previous: str = _setting(
        "",
        "Keys before the last rotations, with commas between them: accepted, never signed with. A key stays as long as "
        "what it signed shall be read: journals, results.",
        secret=True,
    )
    allow_pickle: bool = _setting(True, "Whether values that JSON cannot carry may be pickled (signed in any case).")
    max_value_bytes: int = _setting(64 * 1024 * 1024, "Largest argument list or result, serialised.", least=1)
    inline_bytes: int = _setting(8 * 1024, "Up to this size values ride in Redis, above it in the object store.")
    durability: str = _setting(
        "redis", "`durability` of tasks that do not say: redis, aof or store.", check=_one_of("redis", "aof", "store")
    )
    result_ttl_seconds: int = _setting(86_400, "How long the record of an ended run stays in Redis.", least=1)
    result_storage: str = _setting(
        "",
        "Where results of tasks and flows go that name no `result_storage`: a folder or s3://bucket/prefix; empty: "
        "small ones ride along, large ones go to the store of the namespace.",
        alias="PREFECT_RESULTS_LOCAL_STORAGE_PATH",
    )
    result_serializer: str = _setting(
        "",
        "Serializer of those that name no `result_serializer`, such as `compressed/pickle`; empty: JSON where "
        "it gives the value back exactly, else pickle.",
        alias="PREFECT_RESULTS_DEFAULT_SERIALIZER",
    )
    lease_seconds: float = _setting(10.0, "A worker that is silent for so long has lost its runs.", least=0.1)
    beat_seconds: float = _setting(2.5, "How often a worker renews its lease; at most half of it.", least=0.01)
    max_crashes: int = _setting(3, "A run whose process died so often is quarantined (Crashed).", least=1, most=9)
    worker_limit: int = _setting(10, "Runs at a time in one worker.", least=1, most=1000)
    submit_limit: int = _setting(
        10,
        "Threads of a flow's `.submit()`.",
        alias="PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS",
        least=1,
    )
    default_retries: int = _setting(
        0, "Retries of tasks that name none.", alias="PREFECT_TASKS_DEFAULT_RETRIES", most=998
    )
    default_retry_delay_seconds: float = _setting(
        0.0, "Their delay.", alias="PREFECT_TASKS_DEFAULT_RETRY_DELAY_SECONDS"
    )
    refresh_cache: bool = _setting(
        False, "`refresh_cache` of tasks of class `pure` that do not say.", alias="PREFECT_TASKS_REFRESH_CACHE"
    )
    disable_caching: bool = _setting(
        False, "Run tasks of class `pure` without a cache.", alias="PREFECT_TASKS_DISABLE_CACHING"
    )
    log_level: str = _setting(
        "INFO", "Level of Kapstan's and the runs' loggers.", alias="PREFECT_LOGGING_LEVEL", check=_level
    )
    log_prints: bool = _setting(False, "Whether prints of runs become log lines.", alias="PREFECT_LOGGING_LOG_PRINTS")
    fsync: bool = _setting(
        False,
        "Local journals and the embedded server: nothing counts before it is on the disk, so a power cut takes none.",
    )
    retention_days: float = _setting(
        0.0,
        "A flow run goes so many days after it ended: journal, values, index entry; `kapstan gc` and the operator do "
        "it. 0: nothing ever goes. An idempotency key holds only as long as the journal, and the grave after it, stay.",
    )
    key_retention_days: float = _setting(
        0.0,
        "A run that went leaves a grave of some 400 bytes, so that its id, or idempotency key, does not run again; it "
        "goes so many days after the run went. 0: it stays for ever.",
    )
    kubeconfig: str = _setting("", "kubeconfig for `kapstan apply`, `get` and the operator; empty: as kubectl does.")

    @property
    def home_path(self) -> Path:
        """Raises:
        ConfigurationError: it begins with ``~`` and this user has no home directory.
        """
        try:
            return Path(self.home).expanduser()
        except RuntimeError:
            raise ConfigurationError(
                f"KAPSTAN_HOME={self.home!r}: this user has no home directory: set KAPSTAN_HOME to a folder of yours"
            ) from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the environment.

        Raises:
            UnknownSetting: a ``KAPSTAN_*`` name that is no setting.
            ConfigurationError: a value of the wrong type, naming the variable, the value and what fits.
        """
        environ = os.environ if environ is None else environ
        known = {f"KAPSTAN_{f.name.upper()}": f for f in fields(cls)}
        aliases = {f.metadata["alias"]: f for f in fields(cls) if f.metadata["alias"]}
        values: dict[str, Any] = {}
        for name, text in environ.items():
            if name in known:
                if text.strip():
                    values[known[name].name] = _convert(name, text, known[name])
            elif name.startswith("KAPSTAN_") and not _is_no_setting(name, text):
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else "; `kapstan config view` lists the settings"
                raise UnknownSetting(f"{name} is no setting of Kapstan{hint}")
        for name, text in environ.items():
            if name in aliases and aliases[name].name not in values and text.strip():
                values[aliases[name].name] = _convert(name, text, aliases[name])
        _warn_of_ignored(
            name
            for name, text in environ.items()
            if name.startswith("PREFECT_") and name not in aliases and not _is_service_link(name, text)
        )
        settings = cls(**values)
        if 2 * settings.beat_seconds > settings.lease_seconds:
            raise ConfigurationError(
                f"KAPSTAN_BEAT_SECONDS={settings.beat_seconds:g}: give at most half of "
                f"KAPSTAN_LEASE_SECONDS={settings.lease_seconds:g}, or workers lose their leases"
            )
        return settings


def make_home(home: Path) -> None:
    """Make the folder of a home if it is not there.

    Raises:
        ConfigurationError: it cannot be made, or nothing can be written there.
    """
    reason = os.strerror(errno.EACCES)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(home, os.W_OK | os.X_OK):
            return
    except OSError as error:
        reason = error.strerror
    raise ConfigurationError(f"KAPSTAN_HOME={str(home)!r} cannot be used ({reason}): set it to a folder of yours")


# Set by the launcher for processes of ours; not settings. Names with KAPSTAN_TEST_ belong to the tests.
_NOT_SETTINGS = frozenset(
    {
        "KAPSTAN_EXECUTOR",
        "KAPSTAN_SESSION",
        "KAPSTAN_WORKER_NAME",
        "KAPSTAN_FLOW_ENTRYPOINT",
        "KAPSTAN_FLOW_RUN_NAME",
        "KAPSTAN_PARAMETERS",
        "KAPSTAN_DEPLOYMENT",
    }
)

_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_.*)?)?)$")


def _is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes (or Docker links) injected ``name`` for a Service whose name begins with ``kapstan``."""
    return bool(_SERVICE_LINK.search(name)) and (
        name.endswith(("_HOST", "_ADDR", "_PROTO")) or "://" in text or text.isdigit()
    )


def _is_no_setting(name: str, text: str) -> bool:
    return name in _NOT_SETTINGS or name.startswith("KAPSTAN_TEST_") or _is_service_link(name, text)


def _convert(name: str, text: str, setting: Field[Any]) -> Any:
    kind, least, most = setting.type, setting.metadata["least"], setting.metadata["most"]
    text = text.strip()
    if kind == "str":
        try:
            return setting.metadata["check"](text)
        except ValueError as error:
            shown = "" if setting.metadata["secret"] else f"={text!r}"
            raise ConfigurationError(f"{name}{shown}: {error}") from None
    try:
        if kind == "bool":
            return _TRUTH[text.lower()]
        value = int(text) if kind == "int" else float(text)
    except (KeyError, ValueError):
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}[str(kind)]
        raise ConfigurationError(f"{name}={text!r}: give {wanted}") from None
    if not least <= value <= most or value == math.inf:
        wanted = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
        raise ConfigurationError(f"{name}={text!r}: give {wanted}")
    return value


_TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


_warned = False


def _warn_of_ignored(names: Any) -> None:
    global _warned
    ignored = sorted(names)
    if ignored and not _warned:
        _warned = True
        warnings.warn(f"Kapstan ignores {', '.join(ignored)}: no setting of that meaning", UserWarning, stacklevel=4)


_current: Settings | None = None
_current_lock = threading.Lock()


def _after_fork() -> None:
    global _current_lock
    _current_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def current() -> Settings:
    """This process' settings, read from the environment at the first call."""
    global _current
    if _current is None:
        with _current_lock:
            _current = _current or Settings.from_env()
    return _current


def peek(name: str) -> Any:
    """One setting, for what is read while modules are imported: the environment may still change after it.

    Raises:
        ConfigurationError: as ``Settings.from_env``, of this one setting.
    """
    if _current is not None:
        return getattr(_current, name)
    setting = Settings.__dataclass_fields__[name]
    for variable in (f"KAPSTAN_{name.upper()}", setting.metadata["alias"]):
        if os.environ.get(variable, "").strip():
            return _convert(variable, os.environ[variable], setting)
    return setting.default


def use(settings: Settings | None) -> None:
    """Set this process' settings; None reads the environment again at the next ``current()``."""
    global _current
    _current = settings
