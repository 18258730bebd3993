"""Read the contents of the database without the code under test."""

from __future__ import annotations

from typing import Any

import psycopg

from tests.support.database_model.worker_calls import LEASE_SECONDS
from tests.support.database_model.world import JOB, Held, Job, Owed, Row, World


class Observer:
    """Reads the contents of the database without the code under test."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._lives: dict[tuple[str, Any], int] = {}

    def empty(self) -> None:
        self._connection.execute(
            "truncate app.jobs, app.tasks, app.worker_claims, app.worker_outbox restart identity cascade"
        )
        self._lives.clear()

    def life(self, task_or_job: str, created_at: Any) -> int:
        """Return which of the successive rows with its id a row is."""
        known = sum(other == task_or_job for other, _ in self._lives)
        return self._lives.setdefault((task_or_job, created_at), known + 1)

    def world(self) -> World:
        seen = World()
        for created_at, status, stage in self._rows("select created_at, status::text, stage from app.jobs"):
            seen.job = Job(self.life(JOB, created_at), status, stage)
        for task, stage, created_at, status, retries, stale in self._rows(
            "select task_id, stage, created_at, status::text, retry_count, status = 'processing' and"
            " least(heartbeat, updated_at) < timezone('utc', clock_timestamp())"
            f" - interval '{LEASE_SECONDS} seconds' from app.tasks"
        ):
            seen.rows[task] = Row(stage, self.life(task, created_at), status, retries, stale)
        for task, created_at, token, *rest in self._rows(
            "select task_id, task_created_at, token, body, takeovers, deaths, outcome, stage_ended,"
            " remaining, dead_letter_reason,"
            " extract(day from timezone('utc', clock_timestamp()) - claimed_at)::int"
            " from app.worker_claims"
        ):
            seen.claims[task] = Held(self.life(task, created_at), token.int, *rest)
        for body, occurrence, job_created_at, settled, days in self._rows(
            "select body, occurrence, job_created_at, sent_at is not null, coalesce("
            "extract(day from timezone('utc', clock_timestamp()) - sent_at)::int, 0) from app.worker_outbox"
        ):
            assert (body, occurrence) not in seen.outbox, f"{body!r} is owed twice"
            seen.outbox[body, occurrence] = Owed(self.life(JOB, job_created_at), settled, days)
        return seen

    def columns(self, table: str) -> list[str]:
        query = "select column_name from information_schema.columns where table_name = %s order by 1"
        return [name for (name,) in self._connection.execute(query, (table,)).fetchall()]

    def _rows(self, query: str) -> list[tuple]:
        return self._connection.execute(query.encode()).fetchall()
