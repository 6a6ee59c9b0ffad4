"""What errors say that are given no message."""

from __future__ import annotations

from kapstan import errors


def test_the_message_of_an_error_is_one_line() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.KapstanError):
            error = kind.__new__(kind)
            errors.KapstanError.__init__(error)
            assert "\n" not in str(error), kind
