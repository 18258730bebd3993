"""The worker's settings, from environment variables, typed and checked once at start.

A wrong or missing variable raises `ConfigurationError`, whose text names every problem. Routing rules,
telemetry, additional handlers and the storage of gdaltools read their own variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.errors import ConfigurationError
from worker.protocol.routing import RoutingRules


class AppMode(StrEnum):
    """The mode of a process, which decides the queues that it serves (protocol.md §6)."""

    STANDALONE = "standalone"
    WORKER_DOCKER = "worker_docker"
    WORKER_RASTER = "worker_raster"
    WORKER_VECTOR = "worker_vector"
    PLATFORM_RASTER = "platform_raster"
    PLATFORM_VECTOR = "platform_vector"
    PLATFORM_ONLY = "platform_only"

    @property
    def listens_to_docker_tasks(self) -> bool:
        """Whether the process runs tasks of the container's queue."""
        return self in (AppMode.STANDALONE, AppMode.WORKER_DOCKER)

    @property
    def listens_to_raster_tasks(self) -> bool:
        """Whether the process runs tasks of the raster queue."""
        return self in (AppMode.STANDALONE, AppMode.WORKER_RASTER, AppMode.PLATFORM_RASTER)

    @property
    def listens_to_vector_tasks(self) -> bool:
        """Whether the process receives messages of the vector queue (it has no built-in handler for them)."""
        return self in (AppMode.STANDALONE, AppMode.WORKER_VECTOR, AppMode.PLATFORM_VECTOR)

    @property
    def listens_to_jobs(self) -> bool:
        """Whether the process starts, advances and finishes jobs: the platform's part."""
        return self is AppMode.STANDALONE or self.startswith("platform_")


class ServiceSettings(BaseSettings):
    """The connection settings of queues and database; fields are the variables' names in lower case."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    app_name: str = "gdal-docker-worker"

    service_bus_connection_string: SecretStr | None = None
    service_bus_namespace: str | None = None
    docker_tasks_queue: str = "docker-tasks"
    raster_tasks_queue: str = "raster-tasks"
    vector_tasks_queue: str = "vector-tasks"
    jobs_queue: str = "geospatial-jobs"

    postgis_host: str | None = None
    postgis_port: int = Field(default=5432, ge=1, le=65535)
    postgis_database: str = "postgres"
    postgis_user: str = "postgres"
    postgis_password: SecretStr | None = None
    app_schema: str = Field(default="app", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    use_managed_identity: bool = False

    @property
    def embeds_database(self) -> bool:
        """Whether the process runs its own PostgreSQL server."""
        return False

    @property
    def embeds_broker(self) -> bool:
        """Whether the process runs the development broker."""
        return False

    @property
    def names_a_bus(self) -> bool:
        """Whether a Service Bus namespace is configured."""
        return bool(self.service_bus_connection_string or self.service_bus_namespace)

    @property
    def all_queues(self) -> tuple[str, ...]:
        """The three task queues and the jobs queue."""
        return (self.docker_tasks_queue, self.raster_tasks_queue, self.vector_tasks_queue, self.jobs_queue)


class Settings(ServiceSettings):
    """The worker's configuration."""

    app_mode: AppMode

    worker_timeout_minutes: float = Field(default=60, gt=0)
    worker_concurrency: int = Field(default=2, ge=1, le=64)
    worker_heartbeat_seconds: float = Field(default=30, gt=0, le=60)
    worker_lease_seconds: float = Field(default=180, gt=0)
    worker_stall_minutes: float = Field(default=15, gt=0)
    worker_crash_limit: int = Field(default=3, ge=1)
    worker_memory_limit_mb: float | None = Field(default=None, gt=0)
    worker_warm_minutes: float = Field(default=10, ge=0)
    worker_min_free_disk_mb: float = Field(default=256, ge=0)
    worker_shutdown_grace_seconds: float = Field(default=4, ge=0, le=600)
    port: int = Field(default=8080, ge=0, le=65535)
    worker_host: str | None = None
    worker_api_token: SecretStr | None = Field(default=None, min_length=16)
    log_level: str = Field(default="INFO", pattern=r"^(?i:DEBUG|INFO|WARNING|ERROR)$")
    log_format: Literal["json", "text"] | None = None

    intermediate_tiles_container: str = "silver-mosaicjson"
    gdaltools_blob_root: Path | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.worker_lease_seconds < 2 * self.worker_heartbeat_seconds:
            raise ValueError(
                f"WORKER_LEASE_SECONDS {self.worker_lease_seconds:g} must be at least twice "
                f"WORKER_HEARTBEAT_SECONDS {self.worker_heartbeat_seconds:g}"
            )
        if self.app_mode is AppMode.STANDALONE:
            if not _is_loopback(self.host) and self.worker_api_token is None:
                raise ValueError(
                    f"WORKER_HOST {self.host} lets other machines submit jobs: set WORKER_API_TOKEN to a "
                    "secret that they must show, or leave WORKER_HOST out"
                )
            return self
        if not self.names_a_bus:
            raise ValueError(
                f"APP_MODE={self.app_mode} needs SERVICE_BUS_CONNECTION_STRING or SERVICE_BUS_NAMESPACE"
            )
        if not self.postgis_host:
            raise ValueError(f"APP_MODE={self.app_mode} needs POSTGIS_HOST")
        return self

    @classmethod
    def standalone(cls, **fields: Any) -> Self:
        """Return settings of a worker that embeds all its services, whatever the environment configures."""
        own = dict.fromkeys(("postgis_host", "service_bus_connection_string", "service_bus_namespace"))
        return cls(**(own | {"app_mode": AppMode.STANDALONE, "port": 0} | fields))

    @property
    def host(self) -> str:
        """The address to listen on.

        By default the port is open to other machines, because probes come from outside. In standalone mode,
        which accepts jobs, it is open only to this machine, unless WORKER_HOST says otherwise; the job
        requests then need WORKER_API_TOKEN.
        """
        default = "127.0.0.1" if self.app_mode is AppMode.STANDALONE else "0.0.0.0"
        return self.worker_host or default

    @property
    def logs_json(self) -> bool:
        """Whether the log is JSON: as LOG_FORMAT says, else in all modes except standalone."""
        return self.log_format == "json" if self.log_format else self.app_mode is not AppMode.STANDALONE

    @property
    def embeds_database(self) -> bool:
        """Whether the process runs its own PostgreSQL server."""
        return self.app_mode is AppMode.STANDALONE and not self.postgis_host

    @property
    def embeds_broker(self) -> bool:
        """Whether the process runs the development broker."""
        return self.app_mode is AppMode.STANDALONE and not self.names_a_bus

    @property
    def task_queues(self) -> tuple[str, ...]:
        """The task queues that this mode receives from."""
        mode = self.app_mode
        listens = {
            self.docker_tasks_queue: mode.listens_to_docker_tasks,
            self.raster_tasks_queue: mode.listens_to_raster_tasks,
            self.vector_tasks_queue: mode.listens_to_vector_tasks,
        }
        return tuple(queue for queue, is_served in listens.items() if is_served)

    @property
    def queues(self) -> tuple[str, ...]:
        """All queues that this mode receives from."""
        return (*self.task_queues, *((self.jobs_queue,) if self.app_mode.listens_to_jobs else ()))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings() -> Settings:
    """Return the settings from the environment.

    Raises
    ------
    ConfigurationError
        A variable is missing or wrong; the text names each one, without the values of secrets.
    """
    if not os.environ.get("APP_MODE"):
        raise ConfigurationError(f"APP_MODE is not set: set it to one of {', '.join(AppMode)}")
    with _problems_as_ours():
        RoutingRules.from_environment()
        return Settings()


def load_service_settings() -> ServiceSettings:
    """Return the connection settings from the environment, whatever APP_MODE is.

    Raises
    ------
    ConfigurationError
        A variable is wrong.
    """
    with _problems_as_ours():
        return ServiceSettings()


@contextmanager
def _problems_as_ours() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise ConfigurationError("; ".join(_problem(e["loc"], e["msg"]) for e in error.errors())) from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location).upper()
    text = message.removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
