"""Log lines of the operator: one JSON object each on standard error, never with a secret in it.

Secrets are the values of the settings that are marked so; they are cut out of every line as a last line of defence,
since an address with a password in it may well stand in a client's exception.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from urllib.parse import urlsplit

from kapstan.settings import Settings

SHORTEST_SECRET = 8
"""Shorter values are words (the access key of a development store), and cutting them out would tear lines apart."""

# What kopf says of each event at INFO, and what aiohttp says of each request, is not ours to say again.
_QUIET = {"kopf": logging.WARNING, "kopf.objects": logging.WARNING, "aiohttp": logging.WARNING}


class JsonFormatter(logging.Formatter):
    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = sorted({secret for secret in secrets if len(secret) >= SHORTEST_SECRET}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def set_up(settings: Settings) -> None:
    """Send every logger's lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(secrets_of(settings)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)


def secrets_of(settings: Settings) -> list[str]:
    """The values that must not be shown, and the password inside the Redis address."""
    values = [str(getattr(settings, f.name)) for f in fields(settings) if f.metadata.get("secret")]
    return [*values, urlsplit(settings.redis_url).password or ""]
