from __future__ import annotations

import logging
import re
import warnings
from dataclasses import fields
from pathlib import Path

import pytest

from kapstan import settings
from kapstan.errors import ConfigurationError, UnknownSetting
from kapstan.settings import Settings


def test_an_unknown_setting_is_refused_and_the_nearest_named() -> None:
    with pytest.raises(UnknownSetting, match=r"KAPSTAN_REDIS_URI is no setting.*did you mean KAPSTAN_REDIS_URL"):
        Settings.from_env({"KAPSTAN_REDIS_URI": "redis://x"})


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("KAPSTAN_LEASE_SECONDS", "ten", "give a number"),
        ("KAPSTAN_WORKER_LIMIT", "2.5", "give a whole number"),
        ("KAPSTAN_ALLOW_PICKLE", "maybe", "give true or false"),
        ("KAPSTAN_MAX_CRASHES", "10", "give 1 to 9"),
        ("KAPSTAN_WORKER_LIMIT", "0", "give 1 to 1000"),
        ("KAPSTAN_REDIS_RETRY_SECONDS", "-1", "give 0 or more"),
        ("KAPSTAN_REDIS_RETRY_SECONDS", "nan", "give 0 or more"),
        ("KAPSTAN_STORE_DEADLINE_SECONDS", "inf", "give 0 or more"),
        ("KAPSTAN_LOG_LEVEL", "verbose", "give DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("KAPSTAN_LOG_LEVEL", "15", "give DEBUG, INFO"),
        ("PREFECT_LOGGING_LEVEL", "-1", "give DEBUG, INFO"),
        ("KAPSTAN_NAMESPACE", "../other", "give 1 to 63 letters, digits"),
        ("KAPSTAN_S3_ENDPOINT", "minio:9000", "give an address that begins with http:// or https://"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, text: str, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='{text}': {wanted}"):
        Settings.from_env({name: text})


def test_a_secret_that_cannot_be_is_refused_without_its_value() -> None:
    with pytest.raises(ConfigurationError, match="give an address that begins with redis://") as raised:
        Settings.from_env({"KAPSTAN_REDIS_URL": "user:canary@redis:6379"})
    assert "canary" not in str(raised.value)
    assert str(raised.value).startswith("KAPSTAN_REDIS_URL: ")


def test_an_empty_variable_is_not_set_and_space_around_a_value_does_not_count() -> None:
    empty = {f"KAPSTAN_{field.name.upper()}": "  " for field in fields(Settings)} | {"PREFECT_HOME": ""}
    assert Settings.from_env(empty) == Settings()
    spaced = {
        "KAPSTAN_WORKER_LIMIT": " 5\n",
        "KAPSTAN_ALLOW_PICKLE": "No ",
        "KAPSTAN_REDIS_URL": "redis://h:1\n",
        "KAPSTAN_LOG_LEVEL": " debug ",
    }
    got = Settings.from_env(spaced)
    assert (got.worker_limit, got.allow_pickle, got.redis_url, got.log_level) == (5, False, "redis://h:1", "DEBUG")
    assert Settings.from_env({"KAPSTAN_HOME": "", "PREFECT_HOME": "/x"}).home == "/x"


@pytest.mark.parametrize(
    ("text", "level"),
    [("warn", "WARN"), ("Warning", "WARNING"), ("10", "DEBUG"), ("fatal", "FATAL"), ("50", "CRITICAL")],
)
def test_log_levels_are_read_as_people_write_them(text: str, level: str) -> None:
    assert Settings.from_env({"KAPSTAN_LOG_LEVEL": text}).log_level == level
    assert logging.Logger("any", level).level > 0


def test_without_a_home_directory_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    with pytest.raises(ConfigurationError, match=r"KAPSTAN_HOME='~/\.kapstan': this user has no home directory"):
        _ = Settings().home_path


def test_a_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    settings.make_home(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"KAPSTAN_HOME='.*/file/home' cannot be used \(Not a directory\)"):
        settings.make_home(tmp_path / "file" / "home")
    with pytest.raises(ConfigurationError, match=r"KAPSTAN_HOME='.*/file' cannot be used \(File exists\)"):
        settings.make_home(tmp_path / "file")


def test_no_setting_has_a_name_that_kubernetes_could_inject_for_a_service() -> None:
    """A Service called kapstan-dev gives KAPSTAN_DEV_PORT, KAPSTAN_DEV_SERVICE_HOST, ..."""
    shape = re.compile(r"_(PORT|SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_.*)$")
    names = [f"KAPSTAN_{field.name.upper()}" for field in fields(Settings)]
    names += [field.metadata["alias"] for field in fields(Settings)]
    assert [name for name in names if shape.search(name)] == []


def test_a_beat_that_would_lose_leases_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"KAPSTAN_BEAT_SECONDS=2\.5: .*KAPSTAN_LEASE_SECONDS=4"):
        Settings.from_env({"KAPSTAN_LEASE_SECONDS": "4"})
    assert Settings.from_env({"KAPSTAN_LEASE_SECONDS": "5"}).lease_seconds == 5


def test_what_kubernetes_injects_for_a_service_is_ignored() -> None:
    for name in ("DEV", "WORKER", "LEASE"):
        assert Settings.from_env({f"KAPSTAN_{name}_PORT": "tcp://198.19.4.5:4200"}) == Settings()
        assert Settings.from_env({f"KAPSTAN_{name}_SERVICE_HOST": "198.19.4.5"}) == Settings()
    service = {
        "KAPSTAN_REDIS_PORT": "tcp://198.19.4.5:6379",
        "KAPSTAN_REDIS_SERVICE_HOST": "198.19.4.5",
        "KAPSTAN_REDIS_SERVICE_PORT": "6379",
        "KAPSTAN_REDIS_PORT_6379_TCP": "tcp://198.19.4.5:6379",
        "KAPSTAN_REDIS_PORT_6379_TCP_ADDR": "198.19.4.5",
        "KAPSTAN_REDIS_PORT_6379_TCP_PORT": "6379",
        "KAPSTAN_REDIS_PORT_6379_TCP_PROTO": "tcp",
        "KAPSTAN_REDIS_SERVICE_PORT_REDIS": "6379",
    }
    assert Settings.from_env(service) == Settings()


def test_prefect_names_of_the_same_meaning_are_aliases_and_ours_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_warned", False)
    assert Settings.from_env({"PREFECT_LOGGING_LEVEL": "DEBUG"}).log_level == "DEBUG"
    assert Settings.from_env({"PREFECT_LOGGING_LEVEL": "DEBUG", "KAPSTAN_LOG_LEVEL": "ERROR"}).log_level == "ERROR"
    with pytest.warns(UserWarning, match="ignores PREFECT_API_URL"):
        Settings.from_env({"PREFECT_API_URL": "http://x"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Settings.from_env({"PREFECT_API_URL": "http://x"})  # once is enough


def test_a_service_called_prefect_server_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Settings.from_env({"PREFECT_SERVER_PORT": "tcp://198.19.4.5:4200", "PREFECT_SERVER_SERVICE_HOST": "198.19.4.5"})


def test_secrets_stay_out_of_repr() -> None:
    text = repr(
        Settings(
            redis_url="redis://:canary1@h", s3_secret_key="canary2", signing_key="canary3", s3_access_key="canary4"
        )
    )
    assert "canary" not in text
