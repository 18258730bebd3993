"""Run containers with docker or podman, whichever works here."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# podman would raise these limits and let systemd run the health check; inside a container neither is
# possible.
_WITHOUT_RIGHTS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--no-healthcheck")


@dataclass(frozen=True)
class Engine:
    """A command that runs containers."""

    command: tuple[str, ...]
    run_options: tuple[str, ...] = ("--network", "host")

    @classmethod
    def found(cls) -> Engine:
        """Return docker if its daemon answers, else podman.

        Raises
        ------
        SystemExit
            Neither is available.
        """
        if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
            return cls(("docker",))
        if shutil.which("podman"):
            # As deploy/image/build.sh does; runc and cgroupfs also work inside a container.
            os.environ.setdefault("STORAGE_DRIVER", "vfs")
            command = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
            return cls(command, ("--network", "host", *_WITHOUT_RIGHTS))
        raise SystemExit("neither docker nor podman can run a container here")

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """Run a command of the engine and return its output."""
        done = subprocess.run([*self.command, *arguments], capture_output=True, text=True)
        if check and done.returncode != 0:
            raise SystemExit(f"{self.command[0]} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        """Return the engine's description of a container or an image."""
        found: dict[str, Any] = json.loads(self("inspect", name))[0]
        return found

    def in_image(self, image: str, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in a fresh container."""
        run = (*self.command, "run", "--rm", "--read-only", *self.run_options)
        return subprocess.run([*run, image, "sh", "-c", script], capture_output=True, text=True)

    @contextlib.contextmanager
    def running(self, image: str, *, environment: Mapping[str, str], scratch: Path) -> Iterator[Container]:
        """Run a container of the image, with a read-only root file system, from entry to exit."""
        given = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        options = ("--read-only", *self.run_options, "--volume", f"{scratch}:/scratch", *given)
        # Create and start separately: creating copies the image where no overlay can be mounted.
        name = self("create", *options, image)
        container = Container(self, image, name, time.monotonic())
        try:
            self("start", name)
            yield container
        finally:
            self("rm", "--force", "--volumes", name, check=False)


@dataclass(frozen=True)
class Container:
    """A container that was started."""

    engine: Engine
    image: str
    name: str
    began: float
    """When its start was requested, on the monotonic clock."""

    @property
    def pid(self) -> int:
        """Process id of its first process on this machine."""
        return int(self.engine.inspect(self.name)["State"]["Pid"])

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return bool(self.engine.inspect(self.name)["State"]["Running"])

    @property
    def log(self) -> str:
        """Everything that it has written."""
        done = subprocess.run([*self.engine.command, "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def probe(self) -> None:
        """Run the image's own health check in it, once."""
        configuration = self.engine.inspect(self.image)
        check = (configuration.get("Healthcheck") or configuration["Config"]["Healthcheck"])["Test"]
        assert check[0] == "CMD", check
        self.engine("exec", self.name, *check[1:])

    def stop(self) -> int:
        """Send the image's stop signal, wait for the end, and return the exit code."""
        self.engine("stop", "--time", "60", self.name)
        return int(self.engine.inspect(self.name)["State"]["ExitCode"])
