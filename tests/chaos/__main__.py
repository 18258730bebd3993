"""``python -m tests.chaos``: kill everything, at random and at every named point; nothing may be lost.

Starts PostgreSQL, the broker, a platform and real workers on a stream of jobs; disturbs them by a seed for
some minutes and kills; waits for rest and checks from outside. Prints seed, counts and verdict, and writes
them as JSON. Exit codes: 0 if nothing was lost, 1 if something was, 2 if the arguments are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random, randrange
from typing import Any

from tests.chaos import crashes, verdict
from tests.chaos.jobs import Jobs
from tests.chaos.monkey import Monkey
from tests.chaos.world import World, world
from tests.support.processes import descendants

_REST_SECONDS = 240.0
# Jobs in flight: enough that every kill hits something, few enough that they finish.
_IN_FLIGHT = 4
# Not every action on workers and services is a kill, and each one takes time.
_PACE = 0.6


async def run(
    *, seed: int, minutes: float, kills: int, workers: int, standalone: bool = False
) -> dict[str, Any]:
    """Run chaos once, and return its report."""
    before = descendants()
    began = time.monotonic()
    async with world(workers=workers, seed=seed, standalone=standalone) as made:
        jobs = Jobs(made.platform, made.blobs, Random(seed))
        jobs.make_sources()
        calm = await _calm_run(made, jobs)
        monkey = Monkey(made, seed)
        pause = _PACE * 60 * minutes / max(kills, 1)
        streaming = asyncio.create_task(_stream(jobs))
        shaking = [
            asyncio.create_task(monkey.shake_workers(pause)),
            asyncio.create_task(monkey.shake_services(3 * pause)),
        ]
        asyncio.get_running_loop().call_later(60 * minutes, monkey.tire)
        await asyncio.wait({streaming, *shaking}, timeout=60 * minutes, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*shaking)
        streaming.cancel()
        await asyncio.wait({streaming})
        if not streaming.cancelled():
            streaming.result()
        await monkey.calm()
        rest_began = time.monotonic()
        unrest = await verdict.come_to_rest(made, jobs, within_seconds=_REST_SECONDS)
        rest_seconds = time.monotonic() - rest_began
        made.restless = False
        codes = await asyncio.to_thread(_stop, made)
        wrong = [*unrest, *codes, *await verdict.wrongs(made, jobs, calm)]
        report = {
            "seed": seed,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "kills": monkey.kills,
            "done": dict(sorted(monkey.done.items())),
            "died_at": dict(sorted(Counter(crashes.carried_out(made.orders)).items())),
            "never_died_at": sorted(set(crashes.named_points()) - set(crashes.carried_out(made.orders))),
            "jobs": dict(sorted(Counter(jobs.kinds.values()).items())),
            "tasks": verdict.query(made, "select count(*) as n from app.tasks")[0]["n"],
            "takeovers": verdict.query(made, "select sum(takeovers)::int as n from app.worker_claims")[0][
                "n"
            ],
            "seconds_to_rest": round(rest_seconds, 1),
            "wrong": wrong,
        }
        if wrong:
            report["logs"] = _keep_logs(made, seed)
    orphans = descendants() - before
    if orphans:
        report["wrong"].append(f"{len(orphans)} processes were left behind")
    return report


async def _calm_run(made: World, jobs: Jobs) -> dict[str, dict[str, Any]]:
    """Return what the jobs make without disturbance."""
    calm = {}
    for kind in ("rgb", "dem"):
        job_id = await jobs.submit(kind)
        await made.platform.quiet([job_id], deadline=120)
        calm[kind] = jobs.products(job_id)
    return calm


async def _stream(jobs: Jobs) -> None:
    """Keep some jobs in flight, until cancelled."""
    while True:
        in_flight = [await jobs.submit() for _ in range(_IN_FLIGHT)]
        waiting = {asyncio.create_task(jobs.platform.quiet([job], deadline=86_400)) for job in in_flight}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(waiting, timeout=20)
        finally:
            for task in waiting:
                task.cancel()


def _stop(made: World) -> list[str]:
    found = []
    for worker in made.workers:
        if worker.is_running:
            worker.terminate()
            code = worker.wait(60)
            if code != 0:
                found.append(f"a worker ended with {code} after SIGTERM at rest")
    return found


def _keep_logs(made: World, seed: int) -> str:
    kept = Path(f"chaos-{seed}-logs")
    kept.mkdir(exist_ok=True)
    for log in (*made.folder.glob("worker-*.log"), made.broker.log):
        (kept / log.name).write_bytes(log.read_bytes())
    return str(kept)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run chaos from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="what happens when (default: drawn by lot)")
    parser.add_argument("--minutes", type=float, default=5, help="of shaking (default 5)")
    parser.add_argument("--kills", type=int, default=50, help="to spread over them (default 50)")
    parser.add_argument("--workers", type=int, default=2, choices=(1, 2, 3), help="processes (default 2)")
    parser.add_argument(
        "--standalone", action="store_true", help="workers that are the platform, too, instead of beside one"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("chaos.json"), help="the report (default chaos.json)"
    )
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else randrange(10**6)
    print(
        f"seed {seed}: {given.kills} kills over {given.minutes:g} minutes, {given.workers} workers",
        flush=True,
    )
    report = asyncio.run(
        run(
            seed=seed,
            minutes=given.minutes,
            kills=given.kills,
            workers=given.workers,
            standalone=given.standalone,
        )
    )
    given.json.write_text(json.dumps(report, indent=2))
    for name, value in report.items():
        if name != "wrong":
            print(f"{name:<16}{value}")
    for wrong in report["wrong"]:
        print(f"WRONG  {wrong}")
    print("nothing was lost" if not report["wrong"] else f"{len(report['wrong'])} invariants were broken")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
