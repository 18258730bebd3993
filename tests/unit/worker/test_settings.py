"""The environment: what each mode requires, and that every mistake is named in one line."""

from __future__ import annotations

import os

import pytest

from worker.errors import ConfigurationError
from worker.settings import AppMode, load_settings

SERVICES = {
    "SERVICE_BUS_CONNECTION_STRING": "Endpoint=sb://x/;SharedAccessKeyName=k;SharedAccessKey=hidden",
    "POSTGIS_HOST": "db",
    "POSTGIS_PASSWORD": "hidden",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(
            ("APP_", "SERVICE_BUS", "POSTGIS", "WORKER_", "PORT", "SIZE_", "DURATION_", "LOG_")
        ):
            monkeypatch.delenv(name)
    return monkeypatch


def _set(environment: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        environment.setenv(name, value)


@pytest.mark.parametrize(
    ("mode", "queues"),
    [
        ("standalone", {"docker-tasks", "raster-tasks", "vector-tasks", "geospatial-jobs"}),
        ("worker_docker", {"docker-tasks"}),
        ("worker_raster", {"raster-tasks"}),
        ("worker_vector", {"vector-tasks"}),
        ("platform_raster", {"raster-tasks", "geospatial-jobs"}),
        ("platform_vector", {"vector-tasks", "geospatial-jobs"}),
        ("platform_only", {"geospatial-jobs"}),
    ],
)
def test_a_mode_listens_to_its_queues(environment: pytest.MonkeyPatch, mode: str, queues: set[str]) -> None:
    _set(environment, APP_MODE=mode, **SERVICES)
    assert set(load_settings().queues) == queues


def test_standalone_needs_nothing_and_embeds_what_is_missing(environment: pytest.MonkeyPatch) -> None:
    _set(environment, APP_MODE="standalone")
    settings = load_settings()
    assert settings.embeds_broker
    assert settings.embeds_database
    assert settings.app_mode is AppMode.STANDALONE


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "APP_MODE"),
        ({"APP_MODE": "worker_moon"}, "APP_MODE"),
        ({"APP_MODE": "worker_docker"}, "SERVICE_BUS_CONNECTION_STRING"),
        ({"APP_MODE": "worker_docker", "SERVICE_BUS_NAMESPACE": "n"}, "POSTGIS_HOST"),
        ({"APP_MODE": "standalone", "PORT": "eighty"}, "PORT"),
        ({"APP_MODE": "standalone", "WORKER_CONCURRENCY": "0"}, "WORKER_CONCURRENCY"),
        ({"APP_MODE": "standalone", "SIZE_THRESHOLD_MB": "big"}, "SIZE_THRESHOLD_MB"),
        ({"APP_MODE": "standalone", "APP_SCHEMA": "app; drop"}, "APP_SCHEMA"),
        ({"APP_MODE": "standalone", "WORKER_LEASE_SECONDS": "30"}, "WORKER_LEASE_SECONDS"),
    ],
)
def test_a_wrong_or_missing_variable_is_named_in_one_line(
    environment: pytest.MonkeyPatch, values: dict[str, str], named: str
) -> None:
    _set(environment, **values)
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    _set(environment, APP_MODE="worker_docker", **SERVICES)
    assert "hidden" not in repr(load_settings())
    environment.setenv("WORKER_CONCURRENCY", "none")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        ({}, True),
        ({"WORKER_HOST": "::1"}, True),
        ({"WORKER_HOST": "0.0.0.0"}, False),
        ({"WORKER_HOST": "worker.internal"}, False),
        ({"WORKER_HOST": "0.0.0.0", "WORKER_API_TOKEN": "0123456789abcdef"}, True),
        ({"WORKER_API_TOKEN": "short"}, False),
    ],
)
def test_the_jobs_door_is_open_to_other_machines_only_with_a_token(
    environment: pytest.MonkeyPatch, values: dict[str, str], fine: bool
) -> None:
    _set(environment, APP_MODE="standalone", **values)
    if fine:
        load_settings()
        return
    with pytest.raises(ConfigurationError, match="WORKER_API_TOKEN") as caught:
        load_settings()
    assert "short'" not in str(caught.value)
