"""Clients of the real API server, and a relay to it that can fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import urlsplit


class Relay:
    """A TCP relay. ``silent``: connections stay up, and nothing gets through in either direction."""

    def __init__(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.held = asyncio.Event()
        """Set once bytes were held back: the fault has bitten."""

    def silent(self) -> None:
        self._flowing.clear()

    async def serve(self, port: int) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            self._writers += [writer, upstream_writer]
            for source, target in ((reader, upstream_writer), (upstream_reader, writer)):
                self._tasks.append(asyncio.create_task(self._pump(source, target)))

        return await asyncio.start_server(connected, "127.0.0.1", 0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if not self._flowing.is_set():
                    self.held.set()
                    await self._flowing.wait()
                target.write(data)
                await target.drain()
            target.close()


@contextlib.asynccontextmanager
async def relayed(kubeconfig: Path, copy: Path) -> AsyncGenerator[Relay]:
    """A relay to the server of ``kubeconfig``; ``copy`` is written as a kubeconfig that leads through it."""
    relay = Relay()
    server = await relay.serve(urlsplit(_server(kubeconfig)).port or 443)
    _write_copy(kubeconfig, copy, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield relay
    finally:
        server.close()
        await relay.close()


def _server(kubeconfig: Path) -> str:
    return json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]


def _write_copy(kubeconfig: Path, copy: Path, server: str) -> None:
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    copy.write_text(json.dumps(config))
