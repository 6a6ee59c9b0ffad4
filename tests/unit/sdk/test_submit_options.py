"""When a run may begin and by when it must: what can be said, and what is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kapstan import task
from kapstan.durability import Durability
from kapstan.engine.submit_options import PLAIN, of_call, of_task
from kapstan.errors import ConfigurationError


@task(name="submit-options-plain")
def plain() -> None: ...


@task(name="submit-options-hasty", expires=timedelta(minutes=1))
def hasty() -> None: ...


def options(subject: Any = plain, **given: Any) -> Any:
    return of_call(subject.spec, **{"countdown": 0.0, "eta": None, "expires": None, "idempotency_key": None, **given})


def test_the_deadline_of_a_call_wins_over_that_of_its_task() -> None:
    assert of_task(plain.spec) is PLAIN
    assert of_task(hasty.spec).expires == options(hasty).expires == hasty.expires == 60.0
    assert options(hasty, expires=5).expires == 5.0
    assert options(expires=timedelta(hours=1)).expires == 3600.0
    assert of_task(hasty.with_options(expires=2.5).spec).expires == 2.5
    assert of_task(hasty.with_options(expires=None).spec).expires is None


def test_a_moment_is_one_in_any_zone_and_one_that_has_passed_is_now() -> None:
    assert 3590 < options(expires=datetime.now(UTC) + timedelta(hours=1)).expires <= 3600
    assert options(expires=datetime(2020, 1, 1, tzinfo=UTC)).expires == 0.0


def test_the_durability_of_a_call_wins_over_that_of_its_task() -> None:
    assert options().durability is None, "the settings say"
    careful = plain.with_options(durability="aof")
    assert of_task(careful.spec).durability is options(careful).durability is Durability.AOF
    assert options(careful, durability="redis").durability is Durability.REDIS
    assert options(durability=Durability.AOF).durability is Durability.AOF


@pytest.mark.parametrize(
    ("subject", "given", "named"),
    [
        (plain, {"expires": 0}, "expires=0: give"),
        (plain, {"expires": -1.5}, "expires=-1.5"),
        (plain, {"expires": True}, "expires=True"),
        (plain, {"expires": float("nan")}, "expires=nan"),
        (plain, {"expires": float("inf")}, "expires=inf"),
        (plain, {"expires": "soon"}, "expires='soon'"),
        (plain, {"expires": timedelta(0)}, "expires=datetime.timedelta"),
        (plain, {"expires": datetime(2020, 1, 1)}, "expires=datetime.datetime.*time zone"),
        (plain, {"expires": datetime(9999, 1, 1, tzinfo=UTC)}, "within the next ten years"),
        (plain, {"eta": datetime(9999, 1, 1, tzinfo=UTC)}, "eta=.*within the next ten years"),
        (plain, {"countdown": 5.0, "expires": 5}, "countdown=5.0 and expires=5: the run could never begin"),
        (hasty, {"countdown": 90.0}, "countdown=90.0 and expires=60.0 of the task"),
        (plain, {"eta": datetime(2100, 1, 1, tzinfo=UTC), "expires": 1}, "eta=.*"),
        (plain, {"countdown": 1.0, "eta": datetime(2100, 1, 1, tzinfo=UTC)}, "give one of them"),
        (plain, {"idempotency_key": ""}, "idempotency_key=''"),
        (plain, {"idempotency_key": 7}, "idempotency_key=7"),
        (plain, {"durability": "disk"}, "durability='disk': give one of redis, "),
    ],
)
def test_what_cannot_be_is_refused_by_name(subject: Any, given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        options(subject, **given)


def test_a_task_has_no_deadline_that_is_a_moment() -> None:
    with pytest.raises(ConfigurationError, match="expires=datetime"):
        task(name="submit-options-fixed", expires=datetime.now(UTC))(lambda: None)  # type: ignore[call-overload]
