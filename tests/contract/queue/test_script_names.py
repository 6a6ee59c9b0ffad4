"""Every name that a script uses is made where it can be seen, also in what is rarely run: read from the compiled code.

A server tells of a name that is not there only when that line is run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from tests.servers.redis import RedisServer

from kapstan.queue.scripts import SCRIPTS

GIVEN = {"redis", "KEYS", "ARGV", "string", "struct", "math", "table", "cjson", "bit"}
GIVEN |= {"tonumber", "tostring", "type", "pairs", "ipairs", "unpack", "pcall", "error", "next", "select"}
GETGLOBAL, SETGLOBAL = 5, 7
COMPILED = "return string.dump(loadstring(ARGV[1]))"


class Chunk:
    """A compiled chunk of Lua 5.1, read from front to back (layout: ``ldump.c`` and ``lopcodes.h`` of Lua 5.1)."""

    def __init__(self, code: bytes) -> None:
        assert code[:5] == b"\x1bLua\x51", "another compiler"
        assert code[7:9] == b"\x04\x08", "sizes of int and size_t"
        self.code, self.at = code, 12

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.code, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        size = self.take("<Q")
        self.at += size
        return self.code[self.at - size : self.at - 1].decode("latin-1") if size else ""

    def constant(self) -> str | None:
        kind = self.take("<B")
        if kind == 4:
            return self.text()
        self.at += {0: 0, 1: 1, 3: 8}[kind]
        return None

    def globals(self) -> Iterator[str]:
        """The names that a function and those in it look up globally."""
        self.text()
        self.at += 4 + 4 + 4
        steps = [self.take("<I") for _ in range(self.take("<I"))]
        constants = [self.constant() for _ in range(self.take("<I"))]
        yield from (str(constants[step >> 14]) for step in steps if step & 0x3F in (GETGLOBAL, SETGLOBAL))
        for _ in range(self.take("<I")):
            yield from self.globals()
        lines = self.take("<I")
        self.at += 4 * lines
        for _ in range(self.take("<I")):
            self.text()
            self.at += 8
        for _ in range(self.take("<I")):
            self.text()


def names(server: RedisServer, text: str) -> set[str]:
    with server.client() as client:
        return set(Chunk(client.eval(COMPILED, 0, text)).globals())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("names"))
    started.start()
    yield started
    started.stop()


def test_a_name_that_is_made_in_another_block_is_found(server: RedisServer) -> None:
    text = "local function f(a)\nif a then\nlocal function g() return 1 end\nend\nreturn g(a)\nend\nreturn f(1)"
    assert names(server, text) == {"g"}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_uses_no_other_names(server: RedisServer, name: str) -> None:
    assert names(server, SCRIPTS[name].text.partition("\n")[2]) - GIVEN == set()
