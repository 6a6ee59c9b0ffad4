"""A small OpenID Connect issuer on loopback, as a Kubernetes API server is one for its ServiceAccounts.

It publishes the key by which a store checks tokens, and writes tokens, signed by openssl.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CLIENT = "kapstan-test-client"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """``url`` is the issuer's; ``configuration`` what a store is given."""

    def __init__(self, folder: Path) -> None:
        self._key = folder / "issuer.key"
        subprocess.run(["openssl", "genrsa", "-out", str(self._key), "2048"], check=True, capture_output=True)
        told = subprocess.run(
            ["openssl", "rsa", "-in", str(self._key), "-noout", "-modulus"], check=True, capture_output=True, text=True
        ).stdout
        modulus = bytes.fromhex(told.strip().partition("=")[2])
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": _text(modulus), "e": "AQAB"}
        documents: dict[str, Any] = {"/keys": {"keys": [key]}}

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in documents else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing to say."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.configuration = f"{self.url}/.well-known/openid-configuration"
        documents["/.well-known/openid-configuration"] = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def token(self, seconds: float, **claims: Any) -> str:
        """A signed token that ends in so many seconds."""
        now = int(time.time())
        told = {"iss": self.url, "aud": CLIENT, "sub": "system:serviceaccount:team:flows", "iat": now}
        parts = ({"alg": "RS256", "kid": "one", "typ": "JWT"}, told | {"exp": now + int(seconds)} | claims)
        signed = ".".join(_text(json.dumps(part).encode()) for part in parts)
        made = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=signed.encode(),
            check=True,
            capture_output=True,
        )
        return f"{signed}.{_text(made.stdout)}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Issuer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)
