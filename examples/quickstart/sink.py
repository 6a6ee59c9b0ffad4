"""Where effects are noted, outside everything that may be killed: a file that is synced line by line, or an address."""

from __future__ import annotations

import os
import urllib.request


def note(line: str) -> None:
    """Add a line to `QUICKSTART_SINK`; without it nothing is noted."""
    sink = os.environ.get("QUICKSTART_SINK", "")
    if sink.startswith(("http://", "https://")):
        urllib.request.urlopen(sink, data=line.encode(), timeout=10).close()
    elif sink:
        descriptor = os.open(sink, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
