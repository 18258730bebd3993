"""The Web App's settings, derived from the worker's own; a name that the worker does not know is refused."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from deploy.azure.config import Config
from gdaltools.errors import InvalidParameter
from worker.settings import AppMode, Settings

PORT = 8080
STOP_SECONDS = 120
"""The most seconds that App Service allows between SIGTERM and SIGKILL (learn.microsoft.com, "Environment
variables and app settings in Azure App Service")."""

_START_SECONDS = 600
_HEALTH_FAILURES = 10

# Variables of code that reads the environment directly: routing, storage, limits, GDAL, azure-identity, libpq
# and telemetry.
OTHER_VARIABLES = frozenset(
    {
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
        "AZURE_CLIENT_ID",
        "AZURE_STORAGE_ACCOUNT",
        "AZURE_STORAGE_BLOB_ENDPOINT",
        "BRONZE_STORAGE_ACCOUNT",
        "DOCKER_TASK_TYPES",
        "DURATION_THRESHOLD_MINUTES",
        "GDALTOOLS_ALLOWED_DRIVERS",
        "GDALTOOLS_STORAGE_RETRY_SECONDS",
        "GDAL_CACHEMAX",
        "PGSSLMODE",
        "SILVER_STORAGE_ACCOUNT",
        "SIZE_THRESHOLD_MB",
    }
)


def app_settings(config: Config, *, client_id: str) -> dict[str, str]:
    """Return every setting of the Web App, validated as the worker validates them when it starts.

    Parameters
    ----------
    client_id
        The client id of the app's identity.

    Raises
    ------
    InvalidParameter
        The worker would refuse some of the settings; the message names each.
    """
    given = {name.upper(): _text(value) for name, value in config.settings.items()}
    of_worker = {
        "APP_MODE": AppMode.WORKER_DOCKER.value,
        "APP_NAME": config.name,
        "SERVICE_BUS_NAMESPACE": f"{config.service_bus_namespace}.servicebus.windows.net",
        "POSTGIS_HOST": config.postgres_host,
        "POSTGIS_DATABASE": config.postgres_database,
        "POSTGIS_USER": config.identity,
        "USE_MANAGED_IDENTITY": "true",
        "WORKER_SHUTDOWN_GRACE_SECONDS": str(STOP_SECONDS - 10),
        "PORT": str(PORT),
    } | given
    known = {name.upper() for name in Settings.model_fields}
    unknown = sorted(of_worker.keys() - known - OTHER_VARIABLES)
    if unknown:
        raise InvalidParameter(
            f"the worker knows no variable {', '.join(unknown)}: see README.md, 'Environment'"
        )
    try:
        settings = Settings(**{name.lower(): of_worker[name] for name in of_worker.keys() & known})  # type: ignore[arg-type]
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise InvalidParameter(f"the worker would refuse these settings: {told}") from None
    return of_worker | {
        "AZURE_CLIENT_ID": client_id,
        "AZURE_STORAGE_ACCOUNT": config.silver_storage_account,
        "BRONZE_STORAGE_ACCOUNT": config.bronze_storage_account,
        "SILVER_STORAGE_ACCOUNT": config.silver_storage_account,
        "PGSSLMODE": "require",
        "WEBSITES_PORT": str(settings.port),
        "WEBSITES_CONTAINER_START_TIME_LIMIT": str(_START_SECONDS),
        "WEBSITES_CONTAINER_STOP_TIME_LIMIT": str(STOP_SECONDS),
        "WEBSITES_ENABLE_APP_SERVICE_STORAGE": "false",
        "WEBSITE_HEALTHCHECK_MAXPINGFAILURES": str(_HEALTH_FAILURES),
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
