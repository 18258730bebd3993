"""Faults of the real service that tests inject into the broker: busy, disconnected, slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from gdaltools.errors import InvalidParameter
from worker.local.queues.namespace import SERVER_BUSY, Namespace, Operation
from worker.local.queues.peek_lock import Queue

DETACH_FORCED = "amqp:link:detach-forced"


class Faults:
    """Fault injection for one broker; each fault takes effect before its method returns.

    Parameters
    ----------
    namespace
        The broker's namespace.
    run
        Runs a function on the thread that may use the namespace, and returns its result.
    """

    def __init__(self, namespace: Namespace, run: Callable[[Callable[[], Any]], Any]) -> None:
        self._namespace = namespace
        self._run = run

    def fail_next(
        self,
        operation: Operation,
        condition: str = SERVER_BUSY,
        *,
        times: int = 1,
        queue: str | None = None,
    ) -> None:
        """Make the next `times` operations of a kind fail; they have no effect.

        Parameters
        ----------
        operation
            ``send`` rejects a transfer; ``receive`` detaches the link that would get a message; ``settle``
            refuses a settlement, over the link or the management node; ``renew`` refuses a renewal;
            ``management`` refuses any other management request.
        condition
            The AMQP error condition.
        times
            The number of operations that fail, at least 1.
        queue
            The queue or sub-queue at which they fail; None for any.

        Raises
        ------
        InvalidParameter
            `times` is below 1, or there is no such operation or queue.
        """
        if operation not in get_args(Operation):
            raise InvalidParameter(f"{operation!r} is not one of {', '.join(get_args(Operation))}")
        if times < 1:
            raise InvalidParameter(f"times is {times}; it must be at least 1")
        self._run(lambda: self._namespace.arm_fault(operation, condition, self._queue(queue), times))

    def clear(self) -> None:
        """Clear the faults that `fail_next` has armed, and the reply delay."""
        self._run(self._namespace.disarm_faults)

    def delay_replies(self, seconds: float) -> None:
        """Delay every AMQP frame that the broker sends by `seconds`; 0 ends the delay."""
        self._run(lambda: setattr(self._namespace, "reply_delay", max(0.0, seconds)))

    def drop_connections(self) -> int:
        """Abort every TCP connection without a close frame; return how many there were."""
        return int(self._run(self._namespace.drop_peers))

    def detach_links(self, queue: str | None = None, *, condition: str = DETACH_FORCED) -> int:
        """Close the links to `queue` (None: all), as the service does when it is updated; return how many."""

        def detach() -> int:
            target = self._queue(queue)
            return sum(peer.detach_links(target, condition) for peer in list(self._namespace.peers))

        return int(self._run(detach))

    def expire_locks(self, queue: str, *, message_id: str | None = None) -> int:
        """Expire all locks at `queue`, or those of one message id, now; return how many."""

        def expire() -> int:
            ended = self._namespace.get_queue(queue).expire_lock(message_id=message_id)
            self._namespace.wake()
            return ended

        return int(self._run(expire))

    def _queue(self, path: str | None) -> Queue | None:
        return None if path is None else self._namespace.get_queue(path)
