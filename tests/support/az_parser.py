"""Pass commands to the real Azure CLI's parser, and stop before any of them runs.

This script runs in azure-cli's own environment. It reads a JSON list of arguments per line from standard
input, and writes one JSON line for each: empty if the command is valid, otherwise the CLI's message.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

from azure.cli.core import get_default_cli
from knack.events import EVENT_INVOKER_POST_PARSE_ARGS


class _Understood(BaseException):
    """Raised once the arguments have been parsed."""


def _stop(*_: Any, **__: Any) -> None:
    raise _Understood


def main() -> None:
    """Answer every line of standard input."""
    for line in sys.stdin:
        cli = get_default_cli()
        cli.register_event(EVENT_INVOKER_POST_PARSE_ARGS, _stop)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                cli.invoke(json.loads(line))
            answer = f"it ended before its arguments were parsed: {said.getvalue()}"
        except _Understood:
            answer = ""
        except SystemExit:
            answer = said.getvalue() or "it is not understood"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
