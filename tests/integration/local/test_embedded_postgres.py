import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from worker.database import Database, migration
from worker.database.connections import Connections
from worker.errors import DatabaseError
from worker.local.postgres import (
    PACKAGE,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    SystemAccount,
    _wheel_folder,
)

SITE = Path(psycopg.__file__).parents[2]
ROOT = Path(__file__).parents[3]
SERVE = """
import sys, os, psycopg
from worker.local.postgres import EmbeddedPostgres
with EmbeddedPostgres(sys.argv[1], fsync=False) as server:
    with psycopg.connect(server.conninfo) as connection:
        connection.execute("create table if not exists visits (n int)")
        connection.execute("insert into visits values (1)")
        print(connection.execute("select count(*) from visits").fetchone()[0])
    print(server.data_folder)
    sys.stdout.flush()
    if sys.argv[2] == "crash":
        os._exit(9)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A folder in which a server has run before, as a template."""
    made = Path(tempfile.mkdtemp(prefix="gdaltools-tests-"))
    made.chmod(0o755)
    with EmbeddedPostgres(made / "pg", fsync=False):
        pass
    yield made / "pg"
    shutil.rmtree(made)


@pytest.fixture
def used(place: Path, cluster: Path) -> Path:
    """A place whose folder ``pg`` was used by a server before."""
    subprocess.run(["cp", "-a", str(cluster), str(place / "pg")], check=True)
    return place


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account can access."""
    made = Path(tempfile.mkdtemp(prefix="gdaltools-tests-"))
    made.chmod(0o755)
    yield made
    EmbeddedPostgres.remove(made / "pg")
    shutil.rmtree(made, ignore_errors=True)


def serve(
    folder: Path,
    how: str = "stop",
    *,
    uid: int | None = None,
    python_path: str = "",
    umask: int = -1,
    python: str = sys.executable,
) -> tuple[int, Path]:
    """Run a server in a child process; return how often the folder was served and where its data is."""
    done = subprocess.run(
        [python, "-c", SERVE, str(folder), how],
        check=how == "stop",
        capture_output=True,
        text=True,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        umask=umask,
        env=os.environ | {"PYTHONPATH": f"{python_path}:{ROOT}:{SITE}", "HOME": "/nonexistent"},
    )
    visits, data = done.stdout.split()
    return int(visits), Path(data)


def interpreter_for(uid: int) -> str:
    """Return an interpreter that the account can run and that has the server's packages."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [python, "-c", "import psycopg, worker.local.postgres"],
                user=uid,
                check=True,
                capture_output=True,
                cwd="/",
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{SITE}"},
            )
            return python
    pytest.skip("every interpreter is out of that account's reach")


def modes_above(folder: Path) -> list[tuple[Path, int]]:
    return [(parent, parent.stat().st_mode) for parent in folder.parents]


def test_the_data_survives_a_stop_and_a_crash(used):
    assert serve(used / "pg")[0] == 1
    assert serve(used / "pg", "crash")[0] == 2
    leftover = EmbeddedPostgres.running(used / "pg")
    assert leftover is not None
    socket_folder = Path(psycopg.conninfo.conninfo_to_dict(leftover)["host"])
    assert socket_folder.exists()
    assert serve(used / "pg")[0] == 3
    assert EmbeddedPostgres.running(used / "pg") is None
    assert not socket_folder.parent.exists()


def test_another_process_finds_the_running_server(used):
    with EmbeddedPostgres(used / "pg", fsync=False) as server:
        assert EmbeddedPostgres.running(used / "pg") == server.conninfo
        with psycopg.connect(server.conninfo) as connection:
            settings = connection.execute(
                "select current_setting('listen_addresses'), current_setting('TimeZone')"
            ).fetchone()
        assert settings == ("", "UTC")


@pytest.mark.parametrize("crash", [False, True])
async def test_a_pool_heals_after_the_server_was_down(used, crash):
    with EmbeddedPostgres(used / "pg", fsync=False) as server:
        async with Database(Connections(server.conninfo)) as database:
            await migration.migrate(database.connections)
            with server.down(crash=crash), pytest.raises(DatabaseError):
                await migration.check(database.connections, timeout=0.5)
            await migration.check(database.connections, timeout=20)


def test_two_servers_in_one_folder_are_refused(used):
    with (
        EmbeddedPostgres(used / "pg", fsync=False),
        pytest.raises(EmbeddedPostgresError, match="another process"),
        EmbeddedPostgres(used / "pg"),
    ):
        pass
    assert not EmbeddedPostgres.running(used / "pg")


def test_a_very_long_folder_name_is_no_obstacle(place):
    long = place / ("x" * 120)
    with EmbeddedPostgres(long / "pg", fsync=False) as server, psycopg.connect(server.conninfo):
        pass


def test_an_interrupted_initdb_is_begun_again(used):
    data = used / "pg" / "data"
    (data / "postgresql.conf").unlink()
    assert serve(used / "pg")[0] == 1


def test_somebody_elses_files_are_not_deleted(place):
    data = place / "pg" / "data"
    data.mkdir(parents=True)
    (data / "thesis.txt").write_text("years of work")
    with pytest.raises(EmbeddedPostgresError, match="not PostgreSQL's"):
        EmbeddedPostgres(place / "pg").start()
    assert (data / "thesis.txt").read_text() == "years of work"


def test_data_of_another_major_version_is_named(used):
    (used / "pg" / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedPostgresError, match="is of PostgreSQL 12 and the server is 18"):
        EmbeddedPostgres(used / "pg").start()


def test_removing_a_folder_stops_what_a_crash_left_there(used):
    serve(used / "pg", "crash")
    assert EmbeddedPostgres.remove(used / "pg")
    assert not (used / "pg").exists()


def test_a_folder_in_use_is_not_removed(used):
    with EmbeddedPostgres(used / "pg", fsync=False) as server:
        assert not EmbeddedPostgres.remove(used / "pg")
        with psycopg.connect(server.conninfo):
            pass


@as_root
def test_as_root_a_folder_that_nobody_reaches_stays_so_and_its_data_is_found_again(place):
    home = place / "home"
    home.mkdir(mode=0o700)
    (home / "project").mkdir(mode=0o700)
    before = modes_above(home / "project" / "x")
    visits, data = serve(home / "project" / "pg")
    try:
        assert (visits, home in data.parents) == (1, False)
        assert serve(home / "project" / "pg") == (2, data)
        assert modes_above(home / "project" / "x") == before
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert data.stat().st_uid == SystemAccount.unprivileged().uid
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
    finally:
        EmbeddedPostgres.remove(home / "project" / "pg")
    assert not data.exists()


@as_root
def test_as_root_an_environment_that_nobody_reaches_is_copied_and_stays_so(place):
    site = place / "home" / "site"
    site.mkdir(parents=True)
    (place / "home").chmod(0o700)
    wheel = _wheel_folder()
    shutil.copytree(wheel, site / PACKAGE, symlinks=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(wheel.parent / f"{PACKAGE}.libs", site / f"{PACKAGE}.libs", symlinks=True)
    for folder, _, files in os.walk(site):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            if not os.path.islink(path):
                os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & 0o700)
    assert serve(place / "pg", python_path=str(site), umask=0o077)[0] == 1
    assert stat.S_IMODE((place / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((site / PACKAGE).stat().st_mode) == 0o700


@as_root
def test_another_account_runs_its_own_server(place):
    account = SystemAccount.unprivileged()
    python = interpreter_for(account.uid)
    os.chown(place, account.uid, account.gid)
    visits, data = serve(place / "pg", uid=account.uid, python=python)
    assert (visits, data) == (1, place / "pg" / "data")
    assert serve(place / "pg")[0] == 2  # and root continues with it
    assert serve(place / "pg", uid=account.uid, python=python)[0] == 3
