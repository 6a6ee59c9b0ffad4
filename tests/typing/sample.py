"""What a type checker sees of the surface: checked by pyright in CI, never executed."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

from kapstan import Future, FutureList, State, flow, task


@task
def add(a: int, b: int = 1) -> str:
    return str(a + b)


@task(retries=3, retry_delay_seconds=[1, 2])
async def fetch(url: str) -> bytes:
    return url.encode()


class Shop:
    @task
    def price(self, amount: int) -> float:
        return 1.0 * amount


@flow(name="pipeline", log_prints=True)
def pipeline(n: int) -> list[str]:
    return [add(n)]


@flow
async def apipeline(url: str) -> bytes:
    return await fetch(url)


def calls() -> None:
    assert_type(add(1), str)
    assert_type(add(1, b=2), str)
    assert_type(add(1, return_state=True), State)
    assert_type(add.submit(1), Future[str])
    assert_type(add.submit(add.submit(1)), Future[str])
    assert_type(add.submit(1, wait_for=[add.submit(2)]), Future[str])
    assert_type(add.map([1, 2]), FutureList[str])
    assert_type(add.map([1, 2]).result(), list[str])
    assert_type(add.delay(1), Future[str])
    assert_type(add.delay(1).result(timeout=5), str)
    assert_type(fetch.submit("u"), Future[bytes])
    assert_type(fetch.delay("u").result(), bytes)
    assert_type(fetch.map(["u"]).result(), list[bytes])
    assert_type(Shop().price(2), float)
    assert_type(Shop().price.delay(2), Future[float])
    assert_type(pipeline(1), list[str])
    assert_type(pipeline(1, return_state=True), State)
    assert_type(add.with_options(retries=2, tags=["a"], timeout_seconds=None)(1), str)
    assert_type(pipeline.with_options(name="other")(1), list[str])
    assert_type(add.retries, int)
    assert_type(add.timeout_seconds, float | None)
    assert_type(add.tags, frozenset[str])
    assert_type(add.name, str)
    assert_type(pipeline.retries, int)
    assert_type(pipeline.validate_parameters, bool)


async def acalls() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await apipeline("u"), bytes)
    assert_type(await apipeline("u", return_state=True), State)
    assert_type(await add.delay(1).result_async(), str)


def mistakes() -> None:
    """Each comment is an error that pyright must find: an unnecessary one fails the check."""
    add("1")  # pyright: ignore[reportArgumentType]
    add(1, c=2)  # pyright: ignore[reportCallIssue]
    add()  # pyright: ignore[reportCallIssue]
    add.delay("1")  # pyright: ignore[reportArgumentType]
    fetch.delay(1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    pipeline("1")  # pyright: ignore[reportArgumentType]
    Shop().price("x")  # pyright: ignore[reportArgumentType]
    task(retrys=3)  # pyright: ignore[reportCallIssue]
    add.with_options(retries="3")  # pyright: ignore[reportArgumentType]
    add.with_options(retrys=3)  # pyright: ignore[reportCallIssue]
    pipeline.with_options(timeout_seconds="5")  # pyright: ignore[reportArgumentType]
    task(tags=5)  # pyright: ignore[reportArgumentType]
    _ = add.retrys  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
