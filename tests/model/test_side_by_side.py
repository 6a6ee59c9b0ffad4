"""The model and the real queue, side by side: random walks of the model, each step made by the real Lua on a real
Redis, and what Redis holds compared after every step."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from tests.contract.queue.makers import Register
from tests.model.design import Design, World
from tests.model.real import Real
from tests.model.walk import ACTIONS, take
from tests.model.walking import many, scenario, steps_of
from tests.servers.redis import RedisServer

from kapstan.queue.redis import RedisQueue
from kapstan.settings import Settings

_namespaces = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def walk(server: RedisServer, world: World, random: Random, counts: Counter[str]) -> None:
    """One walk of at most 50 steps in a namespace of its own."""
    given = Settings(redis_url=server.url, namespace=f"walk{os.getpid()}-{next(_namespaces)}")
    eras = Register()
    queue = RedisQueue(given, eras)
    try:
        real = Real(world, queue, eras)
        real.begin()
        for name, at, before, after in steps_of(world, random, counts):
            take(real, name, at, before, after)
            real.compare(after)
    finally:
        queue.close()


@pytest.mark.timeout(400)
def test_the_real_lua_goes_as_the_model(server: RedisServer) -> None:
    counts = many(lambda world, random, counts: walk(server, world, random, counts), 200)
    assert not set(ACTIONS) - set(counts), "every step of the real queue was taken"


@pytest.mark.parametrize("wrong", [Design(era=False), Design(own_claim=False)], ids=["no era", "late outcomes"])
def test_a_model_that_is_wrong_goes_otherwise(server: RedisServer, wrong: Design) -> None:
    with pytest.raises(AssertionError):  # noqa: PT012  (one of the walks)
        for seed in range(300):
            walk(server, World(wrong, scenario("p")), Random(seed), Counter())
