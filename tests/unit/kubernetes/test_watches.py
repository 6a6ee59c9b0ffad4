"""What /healthz knows of the watches, and what a log line must not show."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import aiohttp
import pytest
from yarl import URL

from kapstan.controllers.log import JsonFormatter, secrets_of
from kapstan.controllers.watches import RETRY_SECONDS, SILENT_SECONDS, START_SECONDS, Stream, Watches
from kapstan.settings import Settings

JOBS = Stream("batch", "jobs", "team")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Request:
    """As much of a request as the middleware reads."""

    method = "GET"

    def __init__(self, path: str, query: str = "watch=true") -> None:
        self.url = URL(f"https://server{path}?{query}")


class Response:
    def __init__(self, status: int) -> None:
        self.status = status


def ask(watches: Watches, path: str = "/apis/batch/v1/namespaces/team/jobs", answer: Any = 200, **query: str) -> None:
    async def handler(_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    asyncio.run(watches.observe(Request(path, **query), handler))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watches(clock: Clock) -> Watches:
    made = Watches(clock=clock)
    made.expect([JOBS])
    return made


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/api/v1/pods", Stream("", "pods", "")),
        ("/api/v1/namespaces/team/pods", Stream("", "pods", "team")),
        ("/apis/batch/v1/jobs", Stream("batch", "jobs", "")),
        ("/apis/batch/v1/namespaces/team/jobs", JOBS),
        ("/apis/batch/v1/namespaces/team/jobs/one", None),
        ("/api/v1/namespaces/team", None),
        ("/version", None),
        ("/", None),
    ],
)
def test_paths(path: str, stream: Stream | None) -> None:
    assert Stream.of_path(path) == stream


def test_a_watch_that_is_never_opened_is_dead(watches: Watches, clock: Clock) -> None:
    assert watches.dead() == []
    clock.now += START_SECONDS + 1
    assert watches.dead() == ["the watch of jobs.batch in team was last opened 121 s ago"]


def test_a_watch_lives_as_long_as_it_is_opened_anew(watches: Watches, clock: Clock) -> None:
    opened: list[Stream] = []
    watches.opened = opened.append
    ask(watches)
    assert opened == [JOBS]
    clock.now += SILENT_SECONDS
    assert watches.dead() == []
    clock.now += 1
    assert len(watches.dead()) == 1


def test_a_list_opens_no_watch(watches: Watches, clock: Clock) -> None:
    ask(watches, query="limit=500")
    clock.now += START_SECONDS + 1
    assert len(watches.dead()) == 1


def test_a_refused_watch_is_told_but_not_cured_by_a_restart(
    watches: Watches, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ask(watches, answer=403)
    ask(watches, answer=403)
    assert watches.refused() == ["the watch of jobs.batch in team: HTTP 403"]
    assert len(caplog.records) == 1, "said once, not at each try"
    clock.now += SILENT_SECONDS * 2
    ask(watches, answer=403)
    assert watches.dead() == []
    assert watches.is_denied(JOBS)
    ask(watches)
    assert watches.refused() == []


def test_an_outage_passes_on(watches: Watches) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        ask(watches, answer=aiohttp.ClientConnectionError("refused"))
    assert watches.refused() == ["the watch of jobs.batch in team: ClientConnectionError refused"]


def test_a_watch_that_nobody_tries_any_more_after_a_failure_is_dead(watches: Watches, clock: Clock) -> None:
    ask(watches)
    with pytest.raises(aiohttp.ClientConnectionError):
        ask(watches, answer=aiohttp.ClientConnectionError("refused"))
    clock.now += RETRY_SECONDS
    assert watches.dead() == []
    clock.now += 1
    assert watches.dead() == [
        "the watch of jobs.batch in team (ClientConnectionError refused) was last tried 121 s ago"
    ]


def test_a_list_that_failed_once_says_nothing_of_the_watch_that_is_open(watches: Watches, clock: Clock) -> None:
    ask(watches)
    clock.now += SILENT_SECONDS
    with pytest.raises(aiohttp.ClientConnectionError):
        ask(watches, answer=aiohttp.ClientConnectionError("cut"), query="limit=500")
    assert watches.refused() == ["the watch of jobs.batch in team: ClientConnectionError cut"]
    ask(watches, query="limit=500")
    assert watches.refused() == []
    clock.now += 1
    assert watches.dead() == [], "the list is a sign of life"


def test_a_list_does_not_hide_that_the_watch_is_refused(watches: Watches) -> None:
    ask(watches, answer=403)
    ask(watches, answer=500, query="limit=500")
    ask(watches, query="limit=500")
    assert watches.refused() == ["the watch of jobs.batch in team: HTTP 500"]
    ask(watches)
    assert watches.refused() == []


def test_an_outage_is_no_denial(watches: Watches) -> None:
    denied: list[Stream] = []
    watches.denied = denied.append
    ask(watches, answer=500)
    assert denied == []
    ask(watches, answer=403)
    assert denied == [JOBS]


def test_requests_of_others_are_not_counted(watches: Watches) -> None:
    ask(watches, path="/api/v1/namespaces/team/secrets", answer=403)
    assert watches.refused() == []


def test_no_secret_is_logged() -> None:
    settings = Settings(
        redis_url="redis://:hunter2hunter2@redis:6379/0", s3_secret_key="verysecretkey", s3_access_key="x"
    )
    formatter = JsonFormatter(secrets_of(settings))
    try:
        raise ConnectionError(f"cannot reach {settings.redis_url}")
    except ConnectionError as error:
        told = (type(error), error, error.__traceback__)
    record = logging.LogRecord("kapstan.operator", logging.ERROR, __file__, 1, "%s", ("verysecretkey",), told)
    text = formatter.format(record)
    assert "hunter2" not in text
    assert "verysecretkey" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "kapstan.operator", "***")
    assert "cannot reach" in line["exception"]
