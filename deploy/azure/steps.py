"""The required Azure resources as steps: the az commands that look up, create and update each.

Nothing here runs a command. The steps are in order of dependency.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from deploy.azure.app_settings import app_settings
from deploy.azure.config import Config
from worker.queue.settings import QueueSettings, required_queues
from worker.settings import AppMode, Settings

Command = tuple[str, ...]

HEALTH_PATH = "/livez"
"""Liveness only: a database that does not answer must not end a task (README.md, "What it survives")."""

_STORAGE_ROLES = ("Storage Blob Data Contributor",)
_BUS_ROLES = ("Azure Service Bus Data Receiver", "Azure Service Bus Data Sender")


@dataclass(frozen=True)
class Facts:
    """Ids that only Azure knows: the subscription's, and the identity's principal and client ids."""

    subscription: str
    principal_id: str
    client_id: str


@dataclass(frozen=True)
class Step:
    """One resource, role or configuration that must exist.

    Attributes
    ----------
    what
        The resource in words.
    look
        The command that shows it; exits with code 3, or shows an empty list, when it does not exist.
    make
        The command that creates it; empty for what others own.
    change
        The command that sets `wants`; empty when there is nothing to set.
    wants
        The required values in the output of `look`, by name.
    shown
        Converts the output of `look` to a mapping of the names in `wants`.
    """

    what: str
    look: Command
    make: Command = ()
    change: Command = ()
    wants: Mapping[str, Any] = field(default_factory=dict)
    shown: Callable[[Any], Mapping[str, Any]] = dict

    def differences(self, found: Any) -> list[str]:
        """Return the names in `wants` whose values differ in `found`, the output of `look`."""
        seen = self.shown(found)
        return [name for name, value in self.wants.items() if seen.get(name) != value]


def first_steps(config: Config) -> Iterator[Step]:
    """Yield the steps for the resource group and for the identity, whose ids the other steps need."""
    yield Step(
        f"resource group {config.resource_group}",
        ("group", "show", "--name", config.resource_group),
        ("group", "create", "--name", config.resource_group, "--location", config.location),
    )
    here = ("--name", config.identity, "--resource-group", config.resource_group)
    yield Step(
        f"identity {config.identity}",
        ("identity", "show", *here),
        ("identity", "create", *here, "--location", config.location),
    )


def steps(config: Config, facts: Facts) -> Iterator[Step]:
    """Yield all other steps, which need `facts`."""
    yield from _registry(config)
    yield from _bus(config)
    yield from _roles(config, facts)
    yield from _web_app(config, facts)


def _registry(config: Config) -> Iterator[Step]:
    here = ("--name", config.registry, "--resource-group", config.resource_group)
    yield Step(
        f"registry {config.registry}",
        ("acr", "show", *here),
        (
            *("acr", "create", *here, "--location", config.location),
            *("--sku", config.registry_sku, "--admin-enabled", "false"),
        ),
    )


def _bus(config: Config) -> Iterator[Step]:
    group = ("--resource-group", config.platforms_group)
    here = ("--name", config.service_bus_namespace, *group)
    yield Step(
        f"namespace {config.service_bus_namespace}",
        ("servicebus", "namespace", "show", *here),
        ("servicebus", "namespace", "create", *here, "--location", config.location, "--sku", "Standard"),
    )
    for name, wanted in required_queues(_settings_of(config)).items():
        queue = ("--name", name, "--namespace-name", config.service_bus_namespace, *group)
        changeable = _queue_options(wanted)
        duplicates = ("--duplicate-detection", "true") if wanted.detects_duplicates else ()
        yield Step(
            f"queue {name}",
            ("servicebus", "queue", "show", *queue),
            ("servicebus", "queue", "create", *queue, *changeable, *duplicates),
            ("servicebus", "queue", "update", *queue, *changeable),
            {
                "lockDuration": _iso(wanted.lock_duration),
                "maxDeliveryCount": wanted.max_delivery_count,
                "defaultMessageTimeToLive": _iso(wanted.time_to_live),
                "deadLetteringOnMessageExpiration": wanted.dead_letters_expired,
            },
        )


def _queue_options(wanted: QueueSettings) -> Command:
    return (
        *("--lock-duration", _iso(wanted.lock_duration)),
        *("--max-delivery-count", str(wanted.max_delivery_count)),
        *("--default-message-time-to-live", _iso(wanted.time_to_live)),
        *("--enable-dead-lettering-on-message-expiration", str(wanted.dead_letters_expired).lower()),
    )


def _roles(config: Config, facts: Facts) -> Iterator[Step]:
    own = f"/subscriptions/{facts.subscription}/resourceGroups/{config.resource_group}/providers"
    platforms = f"/subscriptions/{facts.subscription}/resourceGroups/{config.platforms_group}/providers"
    scopes = [
        ("AcrPull", f"{own}/Microsoft.ContainerRegistry/registries/{config.registry}"),
        *(
            (role, f"{platforms}/Microsoft.Storage/storageAccounts/{account}")
            for account in config.storage_accounts
            for role in _STORAGE_ROLES
        ),
        *(
            (role, f"{platforms}/Microsoft.ServiceBus/namespaces/{config.service_bus_namespace}")
            for role in _BUS_ROLES
        ),
    ]
    for role, scope in scopes:
        given = ("--assignee-object-id", facts.principal_id, "--role", role, "--scope", scope)
        yield Step(
            f"role {role} on {scope.rpartition('/')[2]}",
            ("role", "assignment", "list", *given, "--fill-principal-name", "false"),
            ("role", "assignment", "create", *given, "--assignee-principal-type", "ServicePrincipal"),
            shown=lambda _: {},
        )


def _web_app(config: Config, facts: Facts) -> Iterator[Step]:
    group = ("--resource-group", config.resource_group)
    plan = ("--name", config.plan, *group)
    size = ("--sku", config.plan_sku, "--number-of-workers", str(config.instances))
    yield Step(
        f"plan {config.plan}",
        ("appservice", "plan", "show", *plan),
        ("appservice", "plan", "create", *plan, "--location", config.location, "--is-linux", *size),
        ("appservice", "plan", "update", *plan, *size),
        {"name": config.plan_sku, "capacity": config.instances},
        shown=lambda found: found["sku"],
    )
    app = ("--name", config.name, *group)
    identity = (
        f"/subscriptions/{facts.subscription}/resourceGroups/{config.resource_group}/providers"
        f"/Microsoft.ManagedIdentity/userAssignedIdentities/{config.identity}"
    )
    yield Step(
        f"web app {config.name}",
        ("webapp", "show", *app),
        (
            *("webapp", "create", *app, "--plan", config.plan, "--https-only", "true"),
            *("--container-image-name", config.full_image),
            *("--assign-identity", identity, "--acr-use-identity", "--acr-identity", identity),
        ),
    )
    image = f"DOCKER|{config.full_image}"
    generic = {
        "healthCheckPath": HEALTH_PATH,
        "acrUseManagedIdentityCreds": True,
        "acrUserManagedIdentityID": facts.client_id,
    }
    configure = (
        *("webapp", "config", "set", *app, "--always-on", "true", "--http20-enabled", "true"),
        *("--ftps-state", "Disabled", "--linux-fx-version", image),
        *("--generic-configurations", json.dumps(generic)),
    )
    yield Step(
        f"configuration of {config.name}",
        ("webapp", "config", "show", *app),
        configure,
        configure,
        {"alwaysOn": True, "healthCheckPath": HEALTH_PATH, "linuxFxVersion": image},
    )
    settings = app_settings(config, client_id=facts.client_id)
    set_all = (
        *("webapp", "config", "appsettings", "set", *app, "--settings"),
        *(f"{name}={value}" for name, value in settings.items()),
    )
    yield Step(
        f"settings of {config.name}",
        ("webapp", "config", "appsettings", "list", *app),
        set_all,
        set_all,
        settings,
        shown=lambda found: {each["name"]: each["value"] for each in found},
    )


def _settings_of(config: Config) -> Settings:
    """Return the worker's settings for this deployment, for the names of its queues."""
    names = ("docker_tasks_queue", "jobs_queue")
    return Settings(
        app_mode=AppMode.WORKER_DOCKER,
        service_bus_namespace=config.service_bus_namespace,
        postgis_host=config.postgres_host,
        **{name: config.settings[name] for name in names if name in config.settings},
    )


def _iso(duration: timedelta) -> str:
    """Return a duration in ISO 8601, as Service Bus writes it.

    >>> _iso(timedelta(minutes=5)), _iso(timedelta(days=7))
    ('PT5M', 'P7D')
    """
    minutes, seconds = divmod(duration.seconds, 60)
    if seconds or (duration.days and minutes):
        raise ValueError(f"{duration} is neither of whole days nor of whole minutes")
    return f"P{duration.days}D" if duration.days else f"PT{minutes}M"
