"""Temporary folders that are removed with their block, with their process, or by the next process that looks.

A live owner holds a lock on a file inside; the kernel releases it when the process dies, however it dies.
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
# The longest that `abandon` waits for threads that are creating or filling a folder.
_ABANDON_SECONDS = 0.5
_open_folders: set[Path] = set()
_threads_creating: set[int] = set()
# No lock guards these: `abandon` runs in a signal handler, and its thread may already hold the lock.
_abandoned = False


@contextmanager
def scratch_folder(beside: Path) -> Iterator[Path]:
    """Yield a hidden folder in `beside` that is removed after the block.

    Folders of killed processes in `beside` are removed first.

    Raises
    ------
    StorageError
        `beside` cannot be written to.
    """
    # For a folder of thousands of files this takes a fifth of the time that glob takes.
    with suppress(OSError):
        left = [beside / name for name in os.listdir(beside) if name.startswith(_PREFIX)]
        for stale in left:
            if not (stale / _LOCK_NAME).exists():
                with suppress(OSError):
                    stale.rmdir()  # its owner died before the lock existed, or is about to notice
        sweep(left)
    folder, lock = locked_folder(beside)
    with lock:
        try:
            yield folder
        finally:
            release(folder)


def abandon() -> None:
    """Remove every folder that this process has open, whatever its threads are doing, and open no more.

    Only for a process that ends right afterwards.
    """
    global _abandoned
    _abandoned = True
    this_thread = threading.get_ident()
    deadline = time.monotonic() + _ABANDON_SECONDS
    while True:
        creating = _threads_creating - {this_thread}
        folders = list(_open_folders)
        for folder in folders:
            # No thread adds to a folder that has been renamed.
            doomed = folder.with_name(f"{_PREFIX}{uuid4().hex}")
            with suppress(OSError):
                folder.rename(doomed)
            _remove(doomed)
        there = any(folder.exists() for folder in folders)
        if not (creating or there) or time.monotonic() > deadline:
            return
        time.sleep(0.001)


def hold(folder: Path) -> IO[str]:
    """Mark `folder` as used by this process for as long as the returned file is open."""
    lock = (folder / _LOCK_NAME).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def sweep(folders: Iterable[Path]) -> None:
    """Remove those of `folders` that a process held and none holds any more."""
    for folder in folders:
        with suppress(OSError), (folder / _LOCK_NAME).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)


def sweep_below(root: Path) -> None:
    """Remove scratch folders of killed processes anywhere below `root`; visits every folder there."""
    sweep(path for path in root.rglob(f"{_PREFIX}*") if path.is_dir())


def is_scratch(path: Path) -> bool:
    """Return whether a path lies in a scratch folder."""
    return any(part.startswith(_PREFIX) for part in path.parts)


def locked_folder(beside: Path) -> tuple[Path, IO[str]]:
    """Return a folder like that of `scratch_folder`, and its lock; both last until `release`."""
    while True:
        folder = beside / f"{_PREFIX}{uuid4().hex}"
        lock = _made(folder)
        if lock is not None:
            return folder, lock


def release(folder: Path) -> None:
    """Remove a folder of `locked_folder`."""
    _remove(folder)
    _open_folders.discard(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last, so that a process that dies meanwhile leaves a folder that is swept."""
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
    """Create the folder and hold it; None if it was removed before its lock existed, or after `abandon`."""
    this_thread = threading.get_ident()
    lock = None
    # `abandon` must know of the folder before it exists, and wait until it does.
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
