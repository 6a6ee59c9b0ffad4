from __future__ import annotations

import warnings

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
        ("KAPSTAN_WORKER_LIMIT", "0", "give 1 or more"),
        ("KAPSTAN_REDIS_RETRY_SECONDS", "-1", "give 0 or more"),
        ("KAPSTAN_REDIS_RETRY_SECONDS", "nan", "give 0 or more"),
        ("KAPSTAN_STORE_DEADLINE_SECONDS", "inf", "give 0 or more"),
        ("PREFECT_SERVER_API_PORT", "70000", "give 0 to 65535"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, text: str, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}='{text}': {wanted}"):
        Settings.from_env({name: text})


def test_a_beat_that_would_lose_leases_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"KAPSTAN_BEAT_SECONDS=2\.5: .*KAPSTAN_LEASE_SECONDS=4"):
        Settings.from_env({"KAPSTAN_LEASE_SECONDS": "4"})
    assert Settings.from_env({"KAPSTAN_LEASE_SECONDS": "5"}).lease_seconds == 5


def test_what_kubernetes_injects_for_a_service_is_ignored() -> None:
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


def test_secrets_stay_out_of_repr() -> None:
    text = repr(
        Settings(
            redis_url="redis://:canary1@h", s3_secret_key="canary2", signing_key="canary3", s3_access_key="canary4"
        )
    )
    assert "canary" not in text
