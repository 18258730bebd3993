"""Text commands that control a broker from another process: one line in, one line out; none ends it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from gdaltools.errors import InvalidParameter
from worker.local.broker.faults import Faults
from worker.local.queues.journal import NotSaved
from worker.local.queues.namespace import SERVER_BUSY, Operation
from worker.local.queues.peek_lock import QueueCounts


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands of one broker.

    Parameters
    ----------
    faults
        The broker's fault injection.
    counts
        Returns the number of messages of a queue in each state.
    """

    faults: Faults
    counts: Callable[[str], QueueCounts]

    def answer(self, line: str) -> str:
        """Run one command and return its answer; errors are answered, not raised.

        Parameters
        ----------
        line
            A command and its arguments, quoted as in a shell; `USAGE` lists all commands.

        Returns
        -------
        str
            ``ok``, with the number of connections, links or locks where the command has one; for ``counts``,
            `QueueCounts` as JSON; or ``error:`` and the reason.
        """
        try:
            name, *arguments = shlex.split(line) or [""]
            if name not in USAGE:
                raise InvalidParameter(
                    f"there is no command {name!r}; there are: {', '.join(USAGE.values())}"
                )
            return self._do(name, arguments)
        except (ValueError, NotSaved) as error:
            return f"error: {error}"

    def _do(self, name: str, arguments: Sequence[str]) -> str:
        match name, arguments:
            case "drop", []:
                return f"ok {self.faults.drop_connections()}"
            case "detach", [*queue] if len(queue) <= 1:
                return f"ok {self.faults.detach_links(*queue)}"
            case "delay", [seconds]:
                self.faults.delay_replies(float(seconds))
            case "fail", [operation, *rest] if len(rest) <= 3:
                self.faults.fail_next(
                    _operation(operation),
                    rest[0] if rest else SERVER_BUSY,
                    times=int(rest[1]) if len(rest) > 1 else 1,
                    queue=rest[2] if len(rest) > 2 else None,
                )
            case "expire", [queue, *message_id] if len(message_id) <= 1:
                ended = self.faults.expire_locks(queue, message_id=message_id[0] if message_id else None)
                return f"ok {ended}"
            case "clear", []:
                self.faults.clear()
            case "counts", [queue]:
                return json.dumps(asdict(self.counts(queue)))
            case _:
                raise InvalidParameter(f"{name} takes other arguments: {USAGE[name]}")
        return "ok"


USAGE = {
    "drop": "drop",
    "detach": "detach [QUEUE]",
    "delay": "delay SECONDS",
    "fail": "fail send|receive|settle|renew|management [CONDITION [TIMES [QUEUE]]]",
    "expire": "expire QUEUE [MESSAGE_ID]",
    "clear": "clear",
    "counts": "counts QUEUE",
}


def _operation(name: str) -> Operation:
    for operation in get_args(Operation):
        if operation == name:
            return operation  # type: ignore[no-any-return]
    raise InvalidParameter(f"{name!r} is not an operation: {USAGE['fail']}")
