"""Keys that envelopes are signed with: given in settings, or made once for a home."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from kapstan.errors import ConfigurationError
from kapstan.settings import make_home


class SigningKey(NamedTuple):
    """A key and the 4 bytes by which envelopes name it."""

    key_id: bytes
    secret: bytes

    @classmethod
    def of(cls, secret: bytes) -> SigningKey:
        return cls(hashlib.sha256(b"kapstan key id\0" + secret).digest()[:4], secret)


def parse_key(name: str, text: str) -> SigningKey:
    """The key that ``text`` writes in base64.

    Raises:
        ConfigurationError: it is no base64 of at least 32 bytes; the message begins with ``name``.
    """
    try:
        secret = base64.b64decode(text, validate=True)
    except ValueError:
        secret = b""
    if len(secret) < 32:
        raise ConfigurationError(
            f"{name}: each key must be base64 of at least 32 bytes, such as `openssl rand -base64 32` prints"
        )
    return SigningKey.of(secret)


def local_key(home: Path) -> SigningKey:
    """The key file of this home (0600), made at first use; the same for every process that races to make it.

    Raises:
        ConfigurationError: the home cannot be used, or others may read the key.
    """
    path = home / "signing.key"
    try:
        if not path.exists():
            make_home(home)
            _make_key(home, path)
        about = path.stat()
        # Kubernetes gives a volume's files to the group of its fsGroup at each mount: taken back where it is ours.
        if about.st_mode & 0o077 and not about.st_mode & 0o007 and about.st_uid == os.getuid():
            path.chmod(0o600)
        elif about.st_mode & 0o077:
            raise ConfigurationError(
                f"{path} can be read by others; run `chmod 600 {path}`, or set KAPSTAN_SIGNING_KEY"
            )
        return parse_key(str(path), path.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be used ({error}); set KAPSTAN_HOME to a folder of yours") from None


def _make_key(home: Path, path: Path) -> None:
    fresh = home / f"signing.key.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(32)))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # atomic, and never replaces the key of whoever was first
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
