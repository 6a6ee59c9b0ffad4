"""What can go wrong with a test cluster, each told in one line that says what to do.

Raised everywhere in this package; the command line prints it, the fixture turns it into a skip or a failure.
"""

from __future__ import annotations

from collections.abc import Sequence


class ClusterUnavailable(Exception):
    """No cluster can be had on this machine; the text names the missing part and the cure."""


class NotApplicable(Exception):
    """This cluster cannot do what a test asks of it, for instance reach its nodes. Such a row is listed, not failed."""


class CommandFailed(Exception):
    """A program ended with an error or did not end in time.

    ``code`` is its exit status, None after a timeout. ``output`` is what it wrote to both streams.
    """

    def __init__(self, argv: Sequence[str], code: int | None, output: str) -> None:
        how = "did not end in time" if code is None else f"ended with {code}"
        super().__init__(f"{' '.join(argv)[:300]} {how}: {output.strip()[-2000:]}")
        self.code = code
        self.output = output
