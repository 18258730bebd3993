"""Scratch folders of a process that ends while its threads still create and fill them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from gdaltools.errors import StorageError
from gdaltools.runtime import scratch


@pytest.fixture(autouse=True)
def another_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process go on after `abandon`, which normally is the last call of a process."""
    monkeypatch.setattr(scratch, "_abandoned", False)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_a_folder_that_is_being_made_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    made = threading.Event()
    hold = scratch.hold

    def hold_when_it_ends(folder: Path) -> IO[str]:
        made.set()
        while not scratch._abandoned:
            pass
        return hold(folder)

    def make() -> None:
        with scratch.scratch_folder(tmp_path):
            pytest.fail("a folder was lent by a process that is ending")

    monkeypatch.setattr(scratch, "hold", hold_when_it_ends)
    making = threads.submit(make)
    assert made.wait(30)
    scratch.abandon()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="ending"):
        making.result()


def test_a_folder_that_is_being_filled_does_not_stay(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    filled, over = threading.Event(), threading.Event()

    def fill() -> None:
        with scratch.scratch_folder(tmp_path) as folder:
            number = 0
            while not over.is_set():
                try:
                    (folder / str(number)).touch()
                except FileNotFoundError:
                    break
                number += 1
                if number == 100:
                    filled.set()
            assert over.wait(30)

    filling = threads.submit(fill)
    assert filled.wait(30)
    scratch.abandon()
    left = list(tmp_path.iterdir())
    over.set()
    filling.result()
    assert left == []


def test_a_process_that_is_ending_opens_no_folder(tmp_path: Path) -> None:
    scratch.abandon()
    with pytest.raises(StorageError, match="ending"), scratch.scratch_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert not scratch._open_folders


# Dies, as by `kill -9`, after removing the given number of the six files of its folder.
DIES_REMOVING = """
import os, signal, sys
from pathlib import Path
from gdaltools.runtime.scratch import scratch_folder

unlink, left = os.unlink, [int(sys.argv[2])]

def last(*args, **options):
    unlink(*args, **options)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

with scratch_folder(Path(sys.argv[1])) as folder:
    for number in range(5):
        (folder / str(number)).touch()
    os.unlink = last
"""


@pytest.mark.parametrize("removed", range(1, 7))
def test_a_folder_whose_owner_died_removing_it_is_swept(tmp_path: Path, removed: int) -> None:
    done = subprocess.run([sys.executable, "-c", DIES_REMOVING, str(tmp_path), str(removed)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with scratch.scratch_folder(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
