"""A real Jupyter kernel, driven as a notebook drives it: cells in, outputs out, interruptions in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

_SECONDS = 60.0


@dataclass
class Outputs:
    """The outputs of a cell."""

    text: str = ""
    html: list[str] = field(default_factory=list)
    traceback: list[str] = field(default_factory=list)
    error: str = ""
    #: Seconds from an interruption to the end of the cell.
    stopped_after: float | None = None


class Kernel:
    """A running kernel."""

    def __init__(self, manager: Any, client: BlockingKernelClient) -> None:
        self._manager, self._client = manager, client

    def run(self, code: str, *, interrupted_when: Callable[[], bool] | None = None) -> Outputs:
        """Run a cell; interrupt it once `interrupted_when` returns True."""
        found = Outputs()
        asked = self._client.execute(code)
        deadline, text = time.monotonic() + _SECONDS, None
        while time.monotonic() < deadline:
            if interrupted_when is not None and text is None and interrupted_when():
                text = time.monotonic()
                self._manager.interrupt_kernel()
            try:
                message = self._client.get_iopub_msg(timeout=0.05)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            if _over(message):
                found.stopped_after = None if text is None else time.monotonic() - text
                return found
            _keep(found, message)
        raise TimeoutError(f"the cell did not end: {code}")


@contextmanager
def kernel(folder: Path, environment: Mapping[str, str]) -> Iterator[Kernel]:
    """Run a kernel from entry to exit, with `folder` as its working folder."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder), env=dict(environment))
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _over(message: Mapping[str, Any]) -> bool:
    return message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"


def _keep(found: Outputs, message: Mapping[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        found.text += content["text"]
    elif message["msg_type"] == "error":
        found.error, found.traceback = content["ename"], content["traceback"]
    elif "data" in content:
        found.text += content["data"].get("text/plain", "") + "\n"
        if "text/html" in content["data"]:
            found.html.append(content["data"]["text/html"])
