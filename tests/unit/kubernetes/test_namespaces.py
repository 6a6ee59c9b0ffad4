"""Which Redis and which store the operator takes for a namespace, by what is mounted into its pod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kapstan.controllers.namespaces import Namespaces
from kapstan.errors import BackendError
from kapstan.settings import Settings

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
OPERATORS = Settings(
    redis_url="redis://:operators@shared:6379/0",
    s3_endpoint="http://shared:9000",
    s3_access_key="operator",
    s3_secret_key="operators-secret",
)


def mount(folder: Path, **files: str) -> None:
    """As the kubelet mounts a Secret: the files are links into a folder of their own."""
    data = folder / "..data"
    data.mkdir(parents=True)
    for name, text in files.items():
        (data / name).write_text(text)
        (folder / name).symlink_to(Path("..data") / name)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    mount(tmp_path / "keys", team=KEY, other=KEY)
    (tmp_path / "credentials").mkdir()
    return tmp_path


def settings_of(place: Path, namespace: str, operators: Settings = OPERATORS) -> Iterator[Settings]:
    namespaces = Namespaces(operators, place / "keys", lambda _: None, place / "credentials")
    try:
        yield namespaces.settings_of(namespace)
    finally:
        namespaces.close()


def test_a_namespace_with_credentials_of_its_own_gets_those_and_none_of_the_operators(place: Path) -> None:
    mount(
        place / "credentials" / "team",
        KAPSTAN_REDIS_URL="rediss://team:pw@redis:6380/0\n",
        KAPSTAN_S3_ENDPOINT="https://s3.example",
        KAPSTAN_SIGNING_KEY="not-taken-from-here",
    )
    (team,) = settings_of(place, "team")
    assert (team.redis_url, team.s3_endpoint) == ("rediss://team:pw@redis:6380/0", "https://s3.example")
    assert (team.s3_access_key, team.s3_secret_key) == ("", ""), "the operator's go to the operator's store only"
    assert team.signing_key == KEY
    (other,) = settings_of(place, "other")
    assert (other.redis_url, other.s3_secret_key) == (OPERATORS.redis_url, OPERATORS.s3_secret_key)


def test_without_any_redis_nothing_is_started_in_its_place(place: Path) -> None:
    with pytest.raises(BackendError, match=r"credentials\.team"):
        next(settings_of(place, "team", Settings()))


def test_credentials_that_are_none_name_their_namespace(place: Path) -> None:
    mount(place / "credentials" / "team", KAPSTAN_REDIS_URL="http://nonsense")
    with pytest.raises(BackendError, match="credentials of namespace 'team': KAPSTAN_REDIS_URL"):
        next(settings_of(place, "team"))
