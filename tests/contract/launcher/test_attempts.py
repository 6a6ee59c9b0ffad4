"""What every ``ports.Launcher`` promises about attempts of flow runs; what runs is `kapstan run` itself."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest
from tests.contract.launcher.conftest import On, Place

from kapstan.errors import ForeignObject


def test_what_was_never_started_is_not_there(on: On) -> None:
    async def body(place: Place) -> None:
        seen = await place.attempt()
        assert (seen.exists, seen.running, seen.exit_code) == (False, False, None)

    on(body)


@pytest.mark.parametrize(("flow", "code"), [("quick", 0), ("fails", 1)])
def test_an_attempt_runs_and_its_exit_code_is_seen(on: On, flow: str, code: int) -> None:
    async def body(place: Place) -> None:
        await place.launcher.start(place.request(flow))
        started = await place.attempt()
        assert started.exists
        assert not started.ended
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        assert (ended.exit_code, ended.running, ended.stopping) == (code, False, False)
        assert ended.created_at is not None
        assert ended.started_at is not None
        assert ended.finished_at is not None
        moments = [datetime.fromisoformat(at) for at in (ended.created_at, ended.started_at, ended.finished_at)]
        assert moments == sorted(moments)

    on(body)


def test_an_attempt_is_started_once_also_when_it_is_over(on: On) -> None:
    async def body(place: Place) -> None:
        request = place.request("quick")
        await place.launcher.start(request)
        first = await place.until(place.attempt, lambda seen: seen.running or seen.ended)
        await place.launcher.start(request)
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        await place.launcher.start(request)
        again = await place.attempt()
        assert (again.pod, again.started_at) == (ended.pod, ended.started_at)
        assert again.ended
        assert again.pod == first.pod

    on(body)


def test_a_stopped_attempt_hands_back(on: On) -> None:
    async def body(place: Place) -> None:
        request = place.request("waits")
        await place.launcher.start(request)
        await place.until(place.attempt, lambda seen: seen.running)
        await place.launcher.stop(place.run, request.uid, request.job, grace=30.0)
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        assert ended.stopping
        assert ended.exit_code is not None
        await place.launcher.stop(place.run, request.uid, request.job, grace=30.0)

    on(body)


def test_an_attempt_that_does_not_end_is_killed(on: On) -> None:
    async def body(place: Place) -> None:
        request = place.request("waits")
        await place.launcher.start(request)
        await place.until(place.attempt, lambda seen: seen.running)
        await place.launcher.stop(place.run, request.uid, request.job, grace=0.0)
        ended = await place.until(place.attempt, lambda seen: seen.ended)
        assert ended.exit_code is not None

    on(body)


def test_what_is_gone_may_be_stopped_and_removed(on: On) -> None:
    async def body(place: Place) -> None:
        await place.launcher.stop(place.run, place.flow_run.uid, place.job(), grace=1.0)
        await place.launcher.remove(place.run, place.flow_run.uid, place.job())

    on(body)


def test_a_removed_attempt_is_gone(on: On) -> None:
    async def body(place: Place) -> None:
        request = place.request("quick")
        await place.launcher.start(request)
        await place.until(place.attempt, lambda seen: seen.ended)
        await place.launcher.remove(place.run, request.uid, request.job)
        await place.until(place.attempt, lambda seen: not seen.exists)

    on(body)


def test_removing_what_runs_ends_it(on: On) -> None:
    async def body(place: Place) -> None:
        request = place.request("waits")
        await place.launcher.start(request)
        await place.until(place.attempt, lambda seen: seen.running)
        await place.launcher.remove(place.run, request.uid, request.job)
        await place.until(place.attempt, lambda seen: not seen.exists)

    on(body)


def test_an_attempt_belongs_to_one_object_of_that_name(on: On) -> None:
    async def body(place: Place) -> None:
        request = place.request("waits")
        await place.launcher.start(request)
        await place.until(place.attempt, lambda seen: seen.running)
        other = dataclasses.replace(request, uid="another")
        with pytest.raises(ForeignObject):
            await place.launcher.start(other)
        jobs = [(1, request.job)]
        assert [seen.exists for seen in await place.launcher.observe_attempts(place.run, "another", jobs)] == [False]
        await place.launcher.stop(place.run, "another", request.job, grace=0.0)
        await place.launcher.remove(place.run, "another", request.job)
        seen = await place.attempt()
        assert (seen.exists, seen.running, seen.stopping) == (True, True, False)

    on(body)
