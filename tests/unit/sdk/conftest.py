from __future__ import annotations

from collections.abc import Iterator

import pytest

from kapstan import backend


@pytest.fixture(autouse=True)
def fresh_backend(clean_environment: None) -> Iterator[None]:
    """Each test has a home, a store and a key of its own."""
    backend.use(None)
    yield
    backend.use(None)
