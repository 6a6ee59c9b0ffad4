"""One leader: at first start, at a hand-over, when the leader dies, when the API server falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.relay import relayed

from kapstan.cluster.kubernetes.client import LEASES, Client
from kapstan.cluster.kubernetes.elector import Elector
from kapstan.errors import ClusterRefused

NAME = "election"


@contextlib.asynccontextmanager
async def electing(server: ApiServer) -> AsyncGenerator[Client]:
    client = await Client.connect(str(server.kubeconfig()))
    try:
        yield client
    finally:
        await client.delete(LEASES.path("default"))
        await client.close()


def elector(client: Client, identity: str) -> Elector:
    return Elector(client, "default", NAME, identity, lease_seconds=1.5, renew_seconds=1.0, retry_seconds=0.2)


async def holder(client: Client) -> tuple[str, int]:
    spec = (await client.get(LEASES.path("default", NAME)))["spec"]
    return spec["holderIdentity"], spec["leaseTransitions"]


def test_the_first_leads_at_once_and_the_second_waits(api_server: ApiServer) -> None:
    async def body() -> None:
        async with asyncio.timeout(30), electing(api_server) as client:
            await elector(client, "a").acquire()
            assert await holder(client) == ("a", 1)
            holding = asyncio.create_task(elector(client, "a").hold())
            waiting = asyncio.create_task(elector(client, "b").acquire())
            # Well beyond the lease: only a renewed one keeps the second out.
            done, _ = await asyncio.wait([waiting, holding], timeout=3)
            assert not done
            for task in (waiting, holding):
                task.cancel()
            await asyncio.gather(waiting, holding, return_exceptions=True)

    asyncio.run(body())


def test_a_released_lease_is_taken_at_once(api_server: ApiServer) -> None:
    async def body() -> None:
        async with asyncio.timeout(30), electing(api_server) as client:
            first, second = elector(client, "a"), elector(client, "b")
            second.lease_seconds = first.lease_seconds = 600
            await first.acquire()
            waiting = asyncio.create_task(second.acquire())
            await asyncio.wait([waiting], timeout=0.5)
            await first.release()
            await waiting  # within the test's time, which is a small part of this lease
            assert await holder(client) == ("b", 2)
            await first.release()
            assert await holder(client) == ("b", 2), "who does not hold it releases nothing"

    asyncio.run(body())


def test_a_leader_that_died_is_followed_after_its_lease(api_server: ApiServer) -> None:
    async def body() -> None:
        async with asyncio.timeout(30), electing(api_server) as client:
            await elector(client, "a").acquire()
            began = time.monotonic()
            second = elector(client, "b")
            await second.acquire()
            assert time.monotonic() - began >= second.lease_seconds
            assert second.transitions == 2

    asyncio.run(body())


def test_a_leader_that_gets_no_answer_gives_up_before_others_take_over(api_server: ApiServer, tmp_path: Path) -> None:
    async def body() -> None:
        copy = tmp_path / "kubeconfig"
        async with (
            asyncio.timeout(60),
            relayed(api_server.kubeconfig(), copy) as relay,
            electing(api_server) as client,
        ):
            cut_off = await Client.connect(str(copy))
            first, second = elector(cut_off, "a"), elector(client, "b")
            await first.acquire()
            holding = asyncio.create_task(first.hold())
            waiting = asyncio.create_task(second.acquire())
            relay.silent()
            await relay.held.wait()
            done, _ = await asyncio.wait([holding, waiting], return_when=asyncio.FIRST_COMPLETED)
            assert done == {holding}, "two leaders at once"
            await waiting
            await cut_off.close()

    asyncio.run(body())


def test_a_leader_that_was_replaced_stops(api_server: ApiServer) -> None:
    async def body() -> None:
        async with asyncio.timeout(30), electing(api_server) as client:
            first = elector(client, "a")
            await first.acquire()
            lease = await client.get(LEASES.path("default", NAME))
            lease["spec"]["holderIdentity"] = "b"
            await client.replace(LEASES.path("default", NAME), lease, field_manager="test")
            await first.hold()

    asyncio.run(body())


class Refusing:
    """A client whose requests are refused as often as it is told, by the API server's own answer to a stranger."""

    def __init__(self, client: Client, stranger: Client) -> None:
        self._client = client
        self._stranger = stranger
        self.refusals = 0
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        refuse = self.refusals > 0 and name in ("get", "replace")
        if refuse:
            self.refusals -= 1
            self.refused += 1
        return getattr(self._stranger if refuse else self._client, name)


@pytest.mark.parametrize("when", ["before it leads", "while it leads"])
def test_a_refusal_or_two_do_not_end_the_leader(api_server: ApiServer, when: str) -> None:
    """A token that is just being replaced, a role binding that is just being written."""

    async def body() -> None:
        async with asyncio.timeout(60), electing(api_server) as client, anonymous(client) as stranger:
            with pytest.raises(ClusterRefused):
                await stranger.get(LEASES.path("default", NAME))
            refusing = Refusing(client, stranger)
            ours = elector(cast("Client", refusing), "a")
            if when == "before it leads":
                refusing.refusals = 2
            await ours.acquire()
            holding = asyncio.create_task(ours.hold())
            if when == "while it leads":
                refusing.refusals = 2
            while not holding.done() and (refusing.refused < 2 or ours.refused_since is not None):  # noqa: ASYNC110  (the elector tells nobody)
                await asyncio.sleep(0.02)
            done, _ = await asyncio.wait([holding], timeout=1)
            assert not done
            assert refusing.refused == 2
            assert ours.refused_since is None, "it was answered since"
            assert (await holder(client))[0] == "a"
            refusing.refusals = 1000
            await asyncio.wait_for(holding, 10)
            assert ours.refused_since is not None

    asyncio.run(body())


@contextlib.asynccontextmanager
async def anonymous(client: Client) -> AsyncGenerator[Client]:
    """Somebody whom the API server knows, and who has no rights."""
    connector = aiohttp.TCPConnector(ssl=False)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": "Bearer nonsense"}) as session:
        yield Client(client.server, session)
