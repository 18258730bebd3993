"""What tests do to the broker that the real service does to everybody: be busy, hang up, be slow."""

from __future__ import annotations

from collections.abc import Callable

from gdaltools.errors import InvalidParameter
from worker.local.queues.namespace import SERVER_BUSY, Namespace, Operation

DETACH_FORCED = "amqp:link:detach-forced"


class Faults:
    """The knobs. Each takes effect before the method returns, from whichever thread it is called.

    Parameters
    ----------
    namespace
        Whose.
    run
        Runs a function where the namespace may be touched, and returns its result.
    """

    def __init__(self, namespace: Namespace, run: Callable[[Callable[[], int]], int]) -> None:
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
        """Let the next operations fail, instead of being done.

        Parameters
        ----------
        operation
            ``send`` rejects a transfer; ``receive`` detaches the link that would get a message; ``settle``
            refuses a settlement, over the link or the management node; ``renew`` refuses a renewal;
            ``management`` refuses any other management request.
        condition
            The AMQP error condition.
        times
            How many operations.
        queue
            Only at this queue or sub-queue; at any when None.

        Raises
        ------
        InvalidParameter
            ``times`` is below 1, or there is no such queue.
        """
        if times < 1:
            raise InvalidParameter(f"times is {times}; it must be at least 1")

        def arm() -> int:
            target = self._namespace.get_queue(queue) if queue is not None else None
            self._namespace.arm_fault(operation, condition, target, times)
            return times

        self._run(arm)

    def clear(self) -> None:
        """Forget what `fail_next` armed, and answer without delay."""

        def disarm() -> int:
            self._namespace.disarm_faults()
            return 0

        self._run(disarm)

    def delay_replies(self, seconds: float) -> None:
        """Send everything that much later; 0 ends it."""

        def delay() -> int:
            self._namespace.reply_delay = max(0.0, seconds)
            return 0

        self._run(delay)

    def drop_connections(self) -> int:
        """Break every TCP connection without a word; says how many there were."""

        def drop() -> int:
            peers = list(self._namespace.peers)
            for peer in peers:
                peer.drop()
            return len(peers)

        return self._run(drop)

    def detach_links(self, queue: str | None = None, *, condition: str = DETACH_FORCED) -> int:
        """Close the links to a queue, or to all, as the service does when it is updated; says how many."""

        def detach() -> int:
            target = self._namespace.get_queue(queue) if queue is not None else None
            return sum(peer.detach_links(target, condition) for peer in list(self._namespace.peers))

        return self._run(detach)

    def expire_locks(self, queue: str, *, message_id: str | None = None) -> int:
        """End the locks at a queue now, all or one message's, as if their time was up; says how many."""

        def expire() -> int:
            ended = self._namespace.get_queue(queue).expire_lock(message_id=message_id)
            self._namespace.wake()
            return ended

        return self._run(expire)
