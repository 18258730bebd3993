"""Processes, as the operating system reports them, and one that answers questions."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_START_SECONDS = 120.0


def descendants(pid: int | None = None) -> set[int]:
    """Return the ids of all descendants of a process (by default this one), zombies excluded."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [os.getpid() if pid is None else pid]
    while waiting:
        for child in parents.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


def task_processes(worker: int | None = None) -> set[int]:
    """Return the processes in which the tasks of a worker (by default this process) run.

    They are children of its forkserver.
    """
    return {pid for child in descendants(worker) for pid in descendants(child)}


def forkservers(pid: int | None = None) -> set[int]:
    """Return those of `descendants` that are multiprocessing's forkserver or were forked from it."""
    found = set()
    for each in descendants(pid):
        with contextlib.suppress(OSError):  # the process has just ended
            if b"multiprocessing.forkserver" in Path(f"/proc/{each}/cmdline").read_bytes():
                found.add(each)
    return found


@contextlib.contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stop processes inside the block, as on a paused machine; they notice only the lost time."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class Child:
    """``python -m module *arguments``, which answers lines; started when it is first asked, or has ended.

    Its standard error goes to `log`.
    """

    def __init__(self, module: str, *arguments: str | os.PathLike[str], log: Path) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._fresh = True
        self._answers: queue.Queue[str] = queue.Queue()

    def ask(self, question: str, limit: float) -> dict[str, Any]:
        """Return the answer, a line of JSON, to a line.

        Raises
        ------
        TimeoutError
            There was none within `limit` seconds, to which a new process adds its start; it was killed.
        ChildProcessError
            The process ended.
        """
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(f"{question}\n")
        process.stdin.flush()
        try:
            answer = self._answers.get(timeout=limit + (_START_SECONDS if self._fresh else 0))
        except queue.Empty:
            self.end()
            raise TimeoutError(f"still at it after {limit:.0f} s") from None
        self._fresh = False
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        code = process.wait()
        self.end()
        raise ChildProcessError(
            f"the process ended with {code}: {self._log.read_text(errors='replace')[-500:]}"
        )

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
            self._fresh, self._answers = True, queue.Queue()
            threading.Thread(target=_listen, args=(self._process, self._answers), daemon=True).start()
        return self._process


def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            answers.put(line)
    except ValueError:  # closed when the child ended
        pass
    answers.put("")
