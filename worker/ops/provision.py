"""``python -m worker provision``: create the queues and the schema that a worker of these settings needs.

It can be repeated. Existing queues are unchanged unless `update` is set; differences that cannot be changed
are reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.database import migration, rights
from worker.queue.settings import QueueManagement, required_queues
from worker.service import backing
from worker.settings import Settings

Done = Literal["there", "made", "changed", "to make", "to change", "differs"]


@dataclass(frozen=True)
class Provided:
    """The outcome for one part: a queue, the schema or a role."""

    part: str
    done: Done
    detail: str = ""


async def provision(
    settings: Settings,
    *,
    queues: bool = True,
    update: bool = False,
    what_if: bool = False,
    grant_to: str | None = None,
) -> list[Provided]:
    """Create what is missing and return the outcome for each part.

    Parameters
    ----------
    settings
        The settings of the worker that is to run; the credentials must allow managing the namespace and the
        schema.
    queues
        Whether to provision the queues too, or the database alone.
    update
        Also change the settings of existing queues to the required ones.
    what_if
        Change nothing; only return what would be done.
    grant_to
        A database role that is granted the use of the schema: the worker's, if that is another one. A role
        that the server does not know is created for the identity of that name.

    Raises
    ------
    GdalToolsError
        The namespace or the database refused, or did not answer.
    """
    made = []
    if queues and settings.names_a_bus:
        made += await _queues(settings, update=update, what_if=what_if)
    if settings.postgis_host:
        made += await _database(settings, what_if=what_if, grant_to=grant_to)
    return made


async def _database(settings: Settings, *, what_if: bool, grant_to: str | None) -> list[Provided]:
    schema, role = f"schema {settings.app_schema}", f"role {grant_to}"
    async with backing.one_connection(settings) as database:
        await database.connections.try_once()
        is_new = grant_to is not None and not await rights.exists(database.connections, grant_to)
        if what_if:
            missing = await migration.missing(database.connections)
            made = [Provided(schema, "to make" if missing else "there", ", ".join(missing))]
            return made + ([Provided(role, "to make")] if is_new else [])
        created = await migration.migrate(database.connections)
        await migration.check(database.connections)
        made = [Provided(schema, "made" if created else "there", ", ".join(created))]
        if grant_to is not None:
            if is_new:
                there = settings.model_copy(update={"postgis_database": "postgres"})
                async with backing.one_connection(there) as server:
                    await rights.make_principal(server.connections, grant_to)
            await rights.grant(database.connections, grant_to)
            made.append(Provided(role, "made" if is_new else "there", "it may use the schema"))
        return made


async def _queues(settings: Settings, *, update: bool, what_if: bool) -> list[Provided]:
    secret = settings.service_bus_connection_string
    async with QueueManagement.connect(
        connection_string=secret.get_secret_value() if secret else None,
        namespace=settings.service_bus_namespace,
    ) as management:
        made = []
        for queue, required in required_queues(settings).items():
            found = await management.look(queue)
            if found is None:
                if not what_if:
                    await management.create(queue, required)
                made.append(Provided(f"queue {queue}", "to make" if what_if else "made"))
                continue
            differ = found.differences(required)
            fixed = differ.pop("detects_duplicates", None)
            changeable = "; ".join(differ.values())
            if changeable and update:
                if not what_if:
                    await management.update(queue, required)
                made.append(Provided(f"queue {queue}", "to change" if what_if else "changed", changeable))
            elif changeable:
                made.append(Provided(f"queue {queue}", "differs", f"{changeable}; --update sets it"))
            elif not fixed:
                made.append(Provided(f"queue {queue}", "there"))
            if fixed:
                only = (
                    "it detects no duplicates, as only a new queue can: empty it, delete it, run this again"
                )
                made.append(Provided(f"queue {queue}", "differs", only))
        return made
