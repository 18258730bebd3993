"""What hypothesis chooses from: the caller, the call, and the frequency of each."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.support.database_model import platform_calls as platform
from tests.support.database_model import worker_calls as calls
from tests.support.database_model.world import Operation, Ticket

WORKERS = 3

# Calls whose messages are new each time.
ASKING = calls.ClaimTask | platform.Submit | platform.StartStage | platform.AdvanceJob
FATES = ["all sent", "one sent, the others failed", "none reported", "one sent, then an error"]


@dataclass(frozen=True)
class Selection:
    """One draw of hypothesis; it does not depend on the database, so that a failure can be replayed."""

    call: str
    worker: int
    pick: int
    zombie: bool


# Frequencies that let jobs get far, and every call meet every state.
CALLS = [
    *["claim"] * 6,
    *["complete"] * 6,
    *["worker dies"] * 3,
    *["rescue"] * 2,
    *["retry", "release", "fail", "heartbeat", "sweep", "platform", "disturbance"],
]
CLAIMS_CALLS = ["complete", "fail", "heartbeat", "release", "retry"]
DISTURBANCES = ["days pass", "fail job", "finish job", "janitor", "note dead letter"]

choices = st.builds(
    Selection,
    call=st.sampled_from(CALLS),
    worker=st.integers(0, WORKERS - 1),
    pick=st.integers(0, 11),
    zombie=st.sampled_from([False, False, False, True]),
)


def claims_call(call: str, ticket: Ticket, pick: int, number: int) -> Operation:
    """Return a worker's call with a claim, valid or not."""
    match call:
        case "complete":
            return calls.Complete(ticket)
        case "fail":
            return calls.Fail(ticket)
        case "heartbeat":
            return calls.Heartbeat(ticket)
        case "release":
            return calls.Release(ticket, number, "without" if pick % 2 else "with a message")
    return calls.Retry(ticket, number, pick % 2)
