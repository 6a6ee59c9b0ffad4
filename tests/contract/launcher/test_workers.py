"""What every ``ports.Launcher`` promises about members of TaskWorkers; what runs is `kapstan task serve` itself."""

from __future__ import annotations

from collections.abc import Callable

from tests.contract.launcher.conftest import On, Place

from kapstan.ports import WorkerObservation


def serving(number: int) -> Callable[[WorkerObservation], bool]:
    def holds(found: WorkerObservation) -> bool:
        there = [member for member in found.members if not member.ending]
        return len(there) == number and all(member.ready for member in there)

    return holds


def test_members_come_serve_and_go(on: On) -> None:
    async def body(place: Place) -> None:
        assert (await place.members()).members == ()
        await place.launcher.ensure_workers(place.workers(2))
        found = await place.until(place.members, serving(2))
        assert found.wanted == 2
        assert found.selector
        assert len({member.session_prefix for member in found.members}) == 2
        await place.launcher.ensure_workers(place.workers(2))
        assert {member.name for member in (await place.members()).members} == {m.name for m in found.members}
        await place.launcher.ensure_workers(place.workers(0))
        gone = await place.until(place.members, lambda found: all(member.ended for member in found.members))
        assert gone.wanted == 0

    on(body)


def test_the_member_of_lowest_deletion_cost_goes(on: On) -> None:
    async def body(place: Place) -> None:
        await place.launcher.ensure_workers(place.workers(3))
        found = await place.until(place.members, serving(3))
        victim = sorted(found.members, key=lambda member: member.name)[1]
        await place.launcher.set_deletion_cost(place.worker, victim.name, -1000)
        await place.launcher.ensure_workers(place.workers(2))
        left = await place.until(place.members, serving(2))
        staying = {member.name for member in left.members if not member.ending}
        assert staying == {member.name for member in found.members} - {victim.name}

    on(body)


def test_members_of_a_worker_that_is_gone_end(on: On) -> None:
    async def body(place: Place) -> None:
        await place.launcher.ensure_workers(place.workers(1))
        await place.until(place.members, serving(1))
        await place.delete(place.worker)
        await place.launcher.remove_workers(place.worker)
        await place.until(place.members, lambda found: not found.members)

    on(body)
