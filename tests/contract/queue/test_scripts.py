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
    assert "-- Reply: format, " in text


@pytest.mark.parametrize("name", sorted(scripts.SCRIPTS))
def test_what_a_script_uses_of_the_prelude_is_included(name: str) -> None:
    texts = "".join((FOLDER / f"{file}.lua").read_text() for file in SHARED)
    shared = re.findall(r"^local function (\w+)", texts, re.MULTILINE)
    text = re.sub(r"--.*", "", scripts.SCRIPTS[name].text)
    used = {function for function in shared if re.search(rf"(?<!function )\b{function}\(", text)}
    assert used <= set(re.findall(r"local function (\w+)", text))


@pytest.mark.parametrize("name", sorted(scripts.SCRIPTS))
def test_a_function_is_used_only_where_it_is_visible(name: str) -> None:
    """What one branch of a script includes is unknown behind it: there an error comes in the middle of a change."""
    shared = {found for file in SHARED for found in re.findall(r"^local function (\w+)", _text_of(file), re.MULTILINE)}
    blocks: list[set[str]] = [set()]
    for made, word, used in re.findall(
        r"local function (\w+)|\b(function|do|then|elseif|else|end)\b|(?<![.\w])(\w+)\(", _code_of(name)
    ):
        if word in ("elseif", "else", "end"):
            blocks.pop()
        if made:
            blocks[-1].add(made)
        if made or word in ("function", "do", "then", "else"):
            blocks.append(set())
        assert used not in shared or any(used in block for block in blocks), f"{name}: {used}"
    assert len(blocks) == 1


def _text_of(file: str) -> str:
    return (FOLDER / f"{file}.lua").read_text()


def _code_of(name: str) -> str:
    """The whole of a script without comments and texts."""
    return re.sub(r"'[^'\n]*'", "''", re.sub(r"--.*", "", scripts.SCRIPTS[name].text))


@pytest.mark.parametrize("name", sorted(scripts.SCRIPTS))
def test_every_reply_begins_with_the_format(name: str) -> None:
    replies = re.findall(r"^ *(?:if .* then )?return \{(.*)\}", (FOLDER / f"{name}.lua").read_text(), re.MULTILINE)
    assert replies
    assert all(reply.startswith("'1', ") for reply in replies)


def test_a_stub_that_differs_from_its_header_is_refused() -> None:
    def cancel(run_id: str) -> None: ...

    with pytest.raises(TypeError, match=r"cancel\.lua takes run_id ttl, its stub run_id"):
        scripts.Script(cancel)


def test_a_reply_of_another_format_is_refused() -> None:
    with pytest.raises(QueueUnavailable, match="format b'2'"):
        check_format([b"2", b"OK"])
