"""Log lines: what they are about, and what they leave out."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import environment_with
from worker.telemetry import logs

ROOT = Path(__file__).parents[4]


def _line(caplog: pytest.LogCaptureFixture) -> dict[str, object]:
    found: dict[str, object] = json.loads(logs.JsonLines().format(caplog.records[-1]))
    return found


def test_a_line_has_every_field_even_if_it_is_about_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tests").warning("two\nlines")
    line = _line(caplog)
    assert line["message"] == "two\nlines"
    assert [line[name] for name in logs.FIELDS] == [None] * 4


def test_secrets_are_in_no_message_and_in_no_exception(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "planted-secret")
    try:
        raise RuntimeError("refused: planted-secret")
    except RuntimeError:
        logging.getLogger("tests").exception("with planted-secret")
    text = logs.JsonLines().format(caplog.records[-1])
    assert "planted" not in text
    assert "RuntimeError: refused: ***" in json.loads(text)["exception"]


async def test_what_a_line_is_about_is_inherited_by_tasks_and_ends() -> None:
    async def inner() -> logs.WorkerFacts:
        return dict(logs.current())

    with logs.about({"task_id": "a", "stage": 2}), logs.about({"stage": 3}):
        assert await asyncio.create_task(inner()) == {"task_id": "a", "stage": 3}
        with pytest.raises(RuntimeError), logs.about({"task_id": "b"}):
            raise RuntimeError
        assert logs.current()["task_id"] == "a"
    assert dict(logs.current()) == {}


def test_another_process_goes_on_with_it() -> None:
    script = (
        "import logging; from worker.telemetry import logs;"
        "logs.take_over(logs.LogState(as_json=True, level='INFO', about={'task_id': 'a', 'stage': 2}));"
        "logging.getLogger('tests').info('here')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment_with(), capture_output=True, text=True
    )
    line = json.loads(done.stdout)
    assert (line["task_id"], line["stage"], line["job_id"], line["message"]) == ("a", 2, None, "here")
