"""Certificates and kubeconfigs of a node of our own: one throw-away authority per cluster, made by openssl."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.cluster.command import run

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = "30"


class Authority:
    """Signs certificates into *directory* as NAME.crt and NAME.key."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700)
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        who = ("-subj", "/CN=kapstan-test-cluster", "-days", _DAYS)
        run(["openssl", "req", "-x509", *_CURVE, *who, "-keyout", self._key, "-out", self.certificate])

    def server(self, name: str, subject: str, names: str) -> None:
        """*names* as openssl writes them: ``IP:192.0.2.1,DNS:example``."""
        self._sign(name, subject, f"subjectAltName={names}")

    def client(self, name: str, subject: str) -> None:
        self._sign(name, subject, "extendedKeyUsage=clientAuth")

    def service_accounts(self) -> None:
        """The key pair by which the API server signs tokens: sa.key and sa.pub."""
        run(["openssl", "genrsa", "-out", self.directory / "sa.key", "2048"])
        run(["openssl", "rsa", "-in", self.directory / "sa.key", "-pubout", "-out", self.directory / "sa.pub"])

    def kubeconfig(self, name: str, server: str, path: Path) -> None:
        """A kubeconfig for the client *name*. JSON is YAML."""
        encoded = {
            part: base64.b64encode((self.directory / part).read_bytes()).decode()
            for part in ("ca.crt", f"{name}.crt", f"{name}.key")
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "kapstan-test", "cluster": {"server": server, "certificate-authority-data": encoded["ca.crt"]}}
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": encoded[f"{name}.crt"],
                        "client-key-data": encoded[f"{name}.key"],
                    },
                }
            ],
            "contexts": [{"name": "kapstan-test", "context": {"cluster": "kapstan-test", "user": name}}],
            "current-context": "kapstan-test",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=1))

    def _sign(self, name: str, subject: str, extension: str) -> None:
        base = self.directory / name
        extensions = base.with_suffix(".ext")
        extensions.write_text(extension + "\n")
        request, key, certificate = (base.with_suffix(end) for end in (".csr", ".key", ".crt"))
        run(["openssl", "req", *_CURVE, "-subj", subject, "-keyout", key, "-out", request])
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", _DAYS)
        run(["openssl", "x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", certificate])
