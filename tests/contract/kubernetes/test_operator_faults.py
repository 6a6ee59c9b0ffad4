"""An operator whose API server fails: every kind of write about a run is refused at first, or executed unanswered.

A real API server stands behind the relay. The run gets as far as its Job, which is made once and by one attempt.
"""

from __future__ import annotations

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import Install, MakeTeam, signing_key
from tests.e2e import deadly_relay
from tests.e2e.deadly_relay import DeadlyRelay

FAULTS = ("409", "429", "500", "503", "lost", "garbled")
"""A refusal with that code; ``lost``: executed, no answer; ``garbled``: executed, half of the answer."""


class FaultyRelay(DeadlyRelay):
    """Nobody is killed: the first write of each kind about a run has the fault that the run is named for."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(kubeconfig, lambda: None)
        self.struck_at: Counter[tuple[str, str]] = Counter()
        """By fault and kind of write."""

    def _pass_on(self, handler: BaseHTTPRequestHandler, upstream: http.client.HTTPSConnection) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        fault = self._due(handler.command, urlsplit(handler.path).path, body)
        if not fault:
            deadly_relay.answer(handler, deadly_relay.ask(handler, upstream, body))
        elif fault.isdigit():
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": int(fault),
                "message": "not now",
            }
            answer = json.dumps(status).encode()
            handler.send_response(int(fault))
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(answer)))
            if fault == "429":
                handler.send_header("Retry-After", "1")
            handler.end_headers()
            handler.wfile.write(answer)
        else:
            answer = deadly_relay.ask(handler, upstream, body).read()
            if fault == "garbled":
                handler.send_response(200)
                handler.send_header("Content-Type", "application/json")
                handler.send_header("Content-Length", str(len(answer)))
                handler.end_headers()
                handler.wfile.write(answer[: len(answer) // 2])
            handler.close_connection = True

    def _due(self, method: str, path: str, body: bytes) -> str:
        """The fault of this request, "" for none."""
        kind = next((kind for kind in ("flowruns", "jobs", "events") if f"/{kind}" in path), "")
        if method in ("GET", "HEAD") or not kind:
            return ""
        for fault in FAULTS:
            if f"with-{fault}" in path or f"with-{fault}".encode() in body:
                with self._lock:
                    self.struck_at[fault, f"{method} {kind}"] += 1
                    return fault if self.struck_at[fault, f"{method} {kind}"] == 1 else ""
        return ""


@pytest.fixture
def relay(api_server: ApiServer) -> Iterator[FaultyRelay]:
    relay = FaultyRelay(api_server.kubeconfig())
    yield relay
    relay.close()


def test_every_write_fails_and_each_run_has_one_job(relay: FaultyRelay, install: Install, make_team: MakeTeam) -> None:
    team = make_team("faults")
    installation = install("faults-system", "namespaces={faults}", signing_key("faults"))
    operator = installation.start("a", relay.url).leads()
    runs = {fault: f"with-{fault}" for fault in FAULTS}
    for run in runs.values():
        team.run(run)
    for fault, run in runs.items():
        status = team.started(run)
        assert [(one["number"], one["job"]) for one in status["attempts"]] == [(1, f"{run}-1")], fault
        assert team.jobs(run) == [f"{run}-1"], fault
        for write in ("POST jobs", "PATCH flowruns"):
            assert relay.struck_at[fault, write], "the fault has bitten"
    wrong = [line for line in operator.output if "Traceback" in line or "could not be reconciled" in line]
    assert wrong == [], wrong[0]
    operator.ready()
