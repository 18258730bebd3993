"""Temporary folders that go away: with their block, with their process, or with the next that looks.

A live owner holds a lock on a file inside, which the kernel lets go when the process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from gdaltools.errors import StorageError

_PREFIX = ".gdaltools-"
_LOCK_NAME = ".lock"
# How long an end waits at most for threads that are making or filling a folder just then.
_ABANDON_SECONDS = 0.5
_open_folders: set[Path] = set()
_threads_creating: set[int] = set()
# No lock guards these: `abandon` runs in a signal's handler, whose thread may be the one that holds it.
_abandoned = False


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder in `beside` that goes away with the block; those of killed processes are swept first.

    Raises
    ------
    StorageError
        `beside` cannot be written to.
    """
    # A folder of thousands of files is read in a fifth of the time that glob takes.
    with suppress(OSError):
        left = [beside / name for name in os.listdir(beside) if name.startswith(_PREFIX)]
        for stale in left:
            if not (stale / _LOCK_NAME).exists():
                with suppress(OSError):
                    stale.rmdir()  # its owner died, or is about to find out, before the lock was there
        sweep(left)
    folder, lock = locked_folder(beside)
    with lock:
        try:
            yield folder
        finally:
            release(folder)


def abandon() -> None:
    """Remove every folder that this process has open, whatever its threads are doing, and open no more.

    Only for a process that ends right after.
    """
    global _abandoned
    _abandoned = True
    this_thread = threading.get_ident()
    deadline = time.monotonic() + _ABANDON_SECONDS
    while True:
        creating = _threads_creating - {this_thread}
        folders = list(_open_folders)
        for folder in folders:
            # Under another name no thread puts more into it.
            doomed = folder.with_name(f"{_PREFIX}{uuid4().hex}")
            with suppress(OSError):
                folder.rename(doomed)
            _remove(doomed)
        there = any(folder.exists() for folder in folders)
        if not (creating or there) or time.monotonic() > deadline:
            return
        time.sleep(0.001)


def hold(folder: Path) -> IO[str]:
    """Show that this process lives in `folder`, for as long as what is returned is open."""
    lock = (folder / _LOCK_NAME).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def sweep(folders: Iterable[Path]) -> None:
    """Remove those of `folders` that somebody held and nobody holds any more."""
    for folder in folders:
        with suppress(OSError), (folder / _LOCK_NAME).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def sweep_below(root: Path) -> None:
    """Remove such folders of killed processes anywhere below `root`; it looks at every folder there."""
    sweep(path for path in root.rglob(f"{_PREFIX}*") if path.is_dir())


def is_scratch(path: Path) -> bool:
    """Whether a path lies in such a folder."""
    return any(part.startswith(_PREFIX) for part in path.parts)


def locked_folder(beside: Path) -> tuple[Path, IO[str]]:
    """A folder as `scratch_folder` gives, and its lock, until `release`."""
    while True:
        folder = beside / f"{_PREFIX}{uuid4().hex}"
        lock = _made(folder)
        if lock is not None:
            return folder, lock


def release(folder: Path) -> None:
    """Remove such a folder."""
    _remove(folder)
    _open_folders.discard(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: what a process that dies meanwhile leaves is swept like any other."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name != _LOCK_NAME:
                path = folder / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> IO[str] | None:
    """Make the folder and hold it; None when it went before its lock was there, or nobody is to have it."""
    this_thread = threading.get_ident()
    lock = None
    # `abandon` is to know of the folder before it is there, and to wait until it is.
    _threads_creating.add(this_thread)
    _open_folders.add(folder)
    try:
        if _abandoned:
            raise StorageError(f"{folder.parent} is not written to: the process is ending")
        folder.mkdir()
        held = hold(folder)
        if _abandoned or not (folder / _LOCK_NAME).exists():
            held.close()
            shutil.rmtree(folder, ignore_errors=True)
        else:
            lock = held
    except FileNotFoundError:
        if not folder.parent.is_dir():
            raise StorageError(f"{folder.parent} went away while it was written to") from None
    except OSError as error:
        raise StorageError(f"{folder.parent} cannot be written to: {error.strerror}") from error
    finally:
        if lock is None:
            _open_folders.discard(folder)
        _threads_creating.discard(this_thread)
    return lock
