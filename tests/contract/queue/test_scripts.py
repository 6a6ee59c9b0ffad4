"""Scripts and their stubs say the same, and every file has its header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kapstan.errors import QueueUnavailable
from kapstan.queue import scripts
from kapstan.queue.record import check_format

FOLDER = Path(scripts.__file__).with_name("lua")
SHARED = ("prelude", "waits", "turns", "handover", "sessions", "locks")


def test_every_file_has_a_stub_and_every_stub_a_file() -> None:
    files = {path.stem for path in FOLDER.glob("*.lua")} - {*SHARED}
    assert files == set(scripts.SCRIPTS)


@pytest.mark.parametrize("name", sorted(scripts.SCRIPTS))
def test_the_header_names_keys_arguments_and_reply(name: str) -> None:
    text = (FOLDER / f"{name}.lua").read_text()
    assert re.match(r"#!lua( flags=\S+)?\n", text)
    assert f"-- {name}: " in text
    assert "-- KEYS: prefix\n-- ARGV: " in text
    assert re.search(r"^-- Reply: (one string: )?format, ", text, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(scripts.SCRIPTS))
def test_every_reply_begins_with_the_format(name: str) -> None:
    text = (FOLDER / f"{name}.lua").read_text()
    if "-- Reply: one string: " in text:
        replies = re.findall(r"return ('.*)", text)
        assert replies
        assert all(reply.startswith("'1") for reply in replies)
        return
    replies = re.findall(r"^ *(?:if .* then )?return \{(.*)\}", text, re.MULTILINE)
    assert replies
    assert all(reply.startswith("'1', ") for reply in replies)


def test_a_stub_that_differs_from_its_header_is_refused() -> None:
    def cancel(run_id: str) -> None: ...

    with pytest.raises(TypeError, match=r"cancel\.lua takes run_id ttl, its stub run_id"):
        scripts.Script(cancel)


def test_a_reply_of_another_format_is_refused() -> None:
    with pytest.raises(QueueUnavailable, match="format b'2'"):
        check_format([b"2", b"OK"])
