from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kapstan import specs
from kapstan.errors import ConfigurationError, ParameterError


def charge(user: str, amount: int = 5, *rest: int, note: str = "", **more: int) -> None: ...


def test_binding_applies_defaults_and_names_what_does_not_fit() -> None:
    import inspect

    signature = inspect.signature(charge)
    assert specs.bind(signature, "charge", ("ann",), {"x": 1}) == {
        "user": "ann",
        "amount": 5,
        "rest": (),
        "note": "",
        "more": {"x": 1},
    }
    with pytest.raises(ParameterError, match=r"charge\(user: .*missing a required argument: 'user'"):
        specs.bind(signature, "charge", (), {})


def test_an_identity_is_module_and_qualname_or_the_explicit_name() -> None:
    assert specs.identity_of(charge, None) == f"{__name__}:charge"
    assert specs.identity_of(charge, "pay") == "pay"


def test_what_other_processes_cannot_find_needs_a_name() -> None:
    def local() -> None: ...

    for fn in (lambda: None, local):
        with pytest.raises(ConfigurationError, match="give it a name"):
            specs.identity_of(fn, None)
        assert specs.identity_of(fn, "n") == "n"
    with pytest.raises(ConfigurationError, match="at most 200 bytes"):
        specs.identity_of(charge, "a|b")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["shop/tasks.py"], "tasks"),  # sys.path[0] is shop/
        (["-m", "shop.tasks"], "shop.tasks"),
    ],
)
def test_main_is_called_as_others_import_it(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text(
        "from kapstan.specs import identity_of\ndef f(): ...\nprint(identity_of(f, None))\n"
    )
    run = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{expected}:f"


def test_the_last_delay_of_a_list_repeats() -> None:
    assert [specs.nth_delay((1.0, 10.0), n) for n in (1, 2, 3)] == [1.0, 10.0, 10.0]
    assert specs.nth_delay(2.0, 7) == 2.0
    assert specs.nth_delay((), 1) == 0.0
