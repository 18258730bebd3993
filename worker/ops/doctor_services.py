"""The doctor's checks of services outside this machine: storage, the queues, the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import uuid4

from gdaltools import storage
from gdaltools.errors import GdalToolsError, StorageDenied, StorageError
from worker.database import Database, migration, rights
from worker.errors import BusAuthenticationError, BusError, DatabaseRefused, QueueNotFound
from worker.queue.settings import QueueManagement, required_queues
from worker.service import backing
from worker.settings import Settings

CLOCK_SECONDS = 30.0
"""The most that this machine's clock may be off. Tokens and signatures tolerate minutes, people less."""

State = Literal["ok", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """The result of one check; `remedy` says how to fix a problem."""

    part: str
    state: State
    said: str
    remedy: str = ""


async def _tried(
    part: str, attempt: Awaitable[object], remedies: Mapping[type[GdalToolsError], str], works: str
) -> Finding:
    """Return `works` for an attempt that succeeds, else its error with the first of `remedies` that fits."""
    try:
        await attempt
    except tuple(remedies) as error:
        remedy = next(text for kind, text in remedies.items() if isinstance(error, kind))
        return Finding(part, "problem", str(error), remedy)
    return Finding(part, "ok", works)


async def storage_works(settings: Settings) -> list[Finding]:
    """Check that a blob can be written, read and deleted, as tasks do."""
    container = settings.intermediate_tiles_container
    remedies: dict[type[GdalToolsError], str] = {
        StorageDenied: "give the identity the role Storage Blob Data Contributor on the account (it takes up "
        "to ten minutes to work), and see that the account's network rules let this machine in",
        GdalToolsError: f"see that the account is named rightly and that the container {container} "
        "(INTERMEDIATE_TILES_CONTAINER) is there",
    }
    works = f"{container}: a blob was written, read and deleted"
    return [await _tried("storage", asyncio.to_thread(_write_read_delete, container), remedies, works)]


def _write_read_delete(container: str) -> None:
    location = storage.blob(container, f"gdaltools-doctor/{uuid4().hex}")
    storage.write_bytes(location, b"doctor")
    read = storage.read_bytes(location)
    storage.delete(location)
    if read != b"doctor":
        raise StorageError(f"{container} gives other bytes back than were written")


async def queues_are_open(settings: Settings) -> list[Finding]:
    """Check the rights on the queues: peek at those received from, open a link to those sent to."""
    async with backing.bus(settings) as bus:
        return list(
            await asyncio.gather(*(_queue_is_open(*each) for each in backing.required_rights(settings, bus)))
        )


async def _queue_is_open(doing: str, queue: str, check: Callable[[str], Awaitable[None]]) -> Finding:
    role = "Receiver" if doing == "receive from" else "Sender"
    remedies: dict[type[GdalToolsError], str] = {
        QueueNotFound: "make it: python -m worker provision",
        BusAuthenticationError: f"give the identity the role Azure Service Bus Data {role} on the namespace, "
        "or the key's policy this right",
        BusError: "see that the namespace is named rightly, and that port 5671 (AMQP) is open from here",
    }
    return await _tried(f"{doing} {queue}", check(queue), remedies, "allowed")


async def queues_are_set(settings: Settings) -> list[Finding]:
    """Compare the queues' settings with those that the worker requires, if the credentials may read them."""
    if settings.embeds_broker:
        return []
    secret = settings.service_bus_connection_string
    text = secret.get_secret_value() if secret else None
    if text and "UseDevelopmentEmulator=true" in text:
        return [Finding("queue settings", "unknown", "a development broker has no management to ask")]
    found = []
    async with QueueManagement.connect(
        connection_string=text, namespace=settings.service_bus_namespace
    ) as management:
        for queue, required in required_queues(settings).items():
            part = f"settings of {queue}"
            try:
                seen = await management.look(queue)
            except BusAuthenticationError:
                return [
                    Finding(
                        "queue settings",
                        "unknown",
                        "these credentials may not look at them",
                        "run doctor once as somebody with the role Azure Service Bus Data Owner",
                    )
                ]
            except BusError as error:
                return [
                    Finding("queue settings", "unknown", str(error), "port 443 of the namespace is needed")
                ]
            if seen is None:
                continue  # the checks of receiving and sending report it
            if not (differ := seen.differences(required)):
                found.append(Finding(part, "ok", "as they should be"))
                continue
            remedy = "set them: python -m worker provision --update"
            if "detects_duplicates" in differ:
                remedy += "; duplicate detection needs a new queue"
            found.append(Finding(part, "problem", "; ".join(differ.values()), remedy))
    return found


async def database_works(settings: Settings, now: Callable[[], float]) -> list[Finding]:
    """Check the connection, the schema, the worker's rights in it, and the server's clock against `now`."""
    if settings.embeds_database:
        return [Finding("database", "ok", "embedded")]
    async with backing.one_connection(settings) as database:
        remedies: dict[type[GdalToolsError], str] = {
            DatabaseRefused: "see POSTGIS_DATABASE, POSTGIS_USER and POSTGIS_PASSWORD; with "
            "USE_MANAGED_IDENTITY the user is the identity's name, made by pgaadauth_create_principal",
            GdalToolsError: "see POSTGIS_HOST and POSTGIS_PORT, and whether the server's firewall lets "
            "this in",
        }
        connected = await _tried("database", database.connections.try_once(), remedies, "connected")
        if connected.state != "ok":
            return [connected]
        asked = now()
        clock = await database.connections.utc_now()
        middle = (asked + now()) / 2
        return [
            connected,
            await _schema(settings, database),
            _clock(datetime.fromtimestamp(middle, UTC).replace(tzinfo=None) - clock),
        ]


async def _schema(settings: Settings, database: Database) -> Finding:
    part, user = f"schema {settings.app_schema}", settings.postgis_user
    try:
        if missing := await migration.missing(database.connections):
            remedy = "python -m worker provision makes them, as a role that may create; see APP_SCHEMA"
            return Finding(part, "problem", f"missing: {', '.join(missing)}", remedy)
        if lacking := await rights.lacking(database.connections):
            remedy = f"as the schema's owner: python -m worker provision --grant-to {user}"
            return Finding(part, "problem", f"{user} lacks {', '.join(lacking)}", remedy)
        await migration.check(database.connections)
    except GdalToolsError as error:
        return Finding(part, "problem", str(error), "see the platform's version and APP_SCHEMA")
    return Finding(part, "ok", "complete, and its rights are enough")


def _clock(ahead: timedelta) -> Finding:
    seconds = ahead.total_seconds()
    text = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the database's"
    if abs(seconds) > CLOCK_SECONDS:
        return Finding("clock", "problem", text, "let the machine's time be set by NTP")
    return Finding("clock", "ok", text)
