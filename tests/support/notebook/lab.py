"""JupyterLab as a person uses it: its own server, notebooks in a folder, and clicks."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import nbformat

Theme = Literal["Light", "Dark"]

_SECONDS = 90.0
_MOST_HIGH = 16_000
_IDLE = "#jp-main-statusbar :text('| Idle')"


class Lab:
    """A running JupyterLab over the notebooks in `folder`."""

    def __init__(self, folder: Path, address: str, token: str, settings: Path) -> None:
        self.folder, self._address, self._token, self._settings = folder, address, token, settings

    def write(self, name: str, cells: Sequence[str]) -> None:
        """Write a notebook of code cells."""
        document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        document.metadata["kernelspec"] = {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
        nbformat.write(document, self.folder / name)

    @contextmanager
    def opened(self, browser: Any, name: str, theme: Theme) -> Iterator[LabPage]:
        """Open a notebook in a window of that theme, with a kernel that is ready."""
        self._choose("apputils-extension/themes", {"theme": f"JupyterLab {theme}", "adaptive-theme": False})
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        try:
            page.goto(f"{self._address}/lab/tree/{name}?token={self._token}&reset")
            page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=_SECONDS * 1000)
            # If run before the kernel is ready, JupyterLab asks which kernel to use.
            page.wait_for_selector(_IDLE, timeout=_SECONDS * 1000)
            yield LabPage(page)
        finally:
            page.close()

    def _choose(self, plugin: str, values: Mapping[str, object]) -> None:
        path = self._settings / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


class LabPage:
    """One open notebook."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def run_all(self, *, seconds: float) -> None:
        """Run it from top to bottom through the menu, and wait until it has finished."""
        self._page.get_by_role("menuitem", name="Run", exact=True).click()
        self._page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self._page.wait_for_function(
            """() => {
              const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
                .map(each => each.textContent)
              return prompts.length && prompts.every(each => /\\[\\d+\\]/.test(each))
                || document.querySelector('.jp-OutputArea [data-mime-type$="stderr"], .jp-mod-error')
            }""",
            timeout=seconds * 1000,
        )
        self._page.wait_for_selector(_IDLE, timeout=30_000)

    def run_until(self, shown: str) -> None:
        """Run it, and wait until an output matches `shown`."""
        self._page.get_by_role("menuitem", name="Run", exact=True).click()
        self._page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self._page.wait_for_function(
            "text => [...document.querySelectorAll('.jp-OutputArea-output')]"
            ".some(each => new RegExp(text).test(each.textContent)"
            " || each.dataset.mimeType?.endsWith('stderr'))",
            arg=shown,
            timeout=_SECONDS * 1000,
        )

    def interrupt(self) -> float:
        """Click the button that interrupts the kernel; return the seconds until it is idle again."""
        began = time.monotonic()
        self._page.locator("[data-command='notebook:interrupt-kernel']").first.click()
        self._page.wait_for_selector(_IDLE, timeout=_SECONDS * 1000)
        return time.monotonic() - began

    def prompts(self) -> list[str]:
        """Return the prompt of each code cell."""
        return list(self._page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts())

    def outputs(self, kind: str = "") -> list[str]:
        """Return the text of each output, or of those whose MIME type ends with `kind`."""
        where = f'[data-mime-type$="{kind}"]' if kind else ""
        return list(self._page.locator(f".jp-OutputArea-output{where}").all_inner_texts())

    def evaluate(self, script: str) -> Any:
        """Return the result of a script in the page."""
        return self._page.evaluate(script)

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole notebook."""
        high = self._page.evaluate(
            "() => Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')]"
            ".map(each => each.scrollHeight))"
        )
        self._page.set_viewport_size({"width": 1300, "height": min(int(high) + 200, _MOST_HIGH)})
        self._page.evaluate(
            "() => document.querySelectorAll('.jp-WindowedPanel-outer').forEach(each => each.scrollTo(0, 0))"
        )
        self._page.wait_for_timeout(300)
        self._page.screenshot(path=str(path))


@contextmanager
def lab(folder: Path, home: Path, environment: Mapping[str, str]) -> Iterator[Lab]:
    """Run a JupyterLab over `folder` from entry to exit, with its settings below `home`."""
    token, port = secrets.token_hex(16), _free_port()
    settings = home / "settings"
    places = {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    with (home / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env={**environment, **places}, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/api?token={token}", server)
            found = Lab(folder, address, token, settings)
            found._choose("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False})
            # All cells are in the page at once, so that all of them can be checked.
            found._choose("notebook-extension/tracker", {"windowingMode": "none"})
            yield found
        finally:
            server.terminate()
            server.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, "JupyterLab ended at once: see lab.log"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(address)
