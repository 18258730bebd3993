"""A job's stages over time: one lane per queue, with one bar per stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gdaltools.display.pace import duration
from worker.database.overview import RecentJob
from worker.protocol.rows import OVER_STATUSES, JobStage

# The least width, in percent of the lane: a stage of milliseconds stays visible in a job of hours.
_THINNEST = 0.6
# The least width, in percent, that has room for the stage's number.
_NUMBERED = 4.0


@dataclass(frozen=True)
class Bar:
    """A stage in its lane.

    Attributes
    ----------
    left, width : float
        Position and width, in percent of the lane.
    tone, text : str
        How the stage is shown, and the stage in words.
    """

    stage: int
    left: float
    width: float
    tone: str
    text: str

    @property
    def numbered(self) -> bool:
        """Whether the stage's number fits into the bar."""
        return self.width >= _NUMBERED


@dataclass(frozen=True)
class Lane:
    """A queue and the bars of its stages."""

    queue: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Timeline:
    """A job, its lanes, its stages, and the `seconds` that a lane's full width stands for."""

    job: RecentJob
    lanes: tuple[Lane, ...]
    stages: tuple[JobStage, ...]
    seconds: float

    @property
    def text(self) -> str:
        """The timeline in words."""
        return "; ".join(bar.text for lane in self.lanes for bar in lane.bars) or "no stage has begun"


def timeline(job: RecentJob, stages: Iterable[JobStage], *, now: datetime) -> Timeline:
    """Return the timeline of `job` from its submission to its end, or to `now` while it runs."""
    mine = tuple(stages)
    end = job.updated if job.status in OVER_STATUSES else now
    last = max([end, *(stage.ended for stage in mine if stage.ended is not None)])
    seconds = max((last - job.created).total_seconds(), 1.0)
    queues = sorted({stage.queue for stage in mine}, key=lambda queue: (_first(mine, queue), queue))
    lanes = tuple(Lane(queue, tuple(_bars(job, mine, queue, seconds, last))) for queue in queues)
    return Timeline(job, lanes, mine, seconds)


def _first(stages: Sequence[JobStage], queue: str) -> int:
    return min(stage.stage for stage in stages if stage.queue == queue)


def _bars(
    job: RecentJob, stages: Sequence[JobStage], queue: str, seconds: float, last: datetime
) -> Iterable[Bar]:
    for stage in stages:
        if stage.queue != queue or stage.began is None:
            continue
        end = stage.ended if stage.over and stage.ended is not None else last
        began = min(max((stage.began - job.created).total_seconds(), 0.0), seconds)
        ended = min(max((end - job.created).total_seconds(), began), seconds)
        width = max(100 * (ended - began) / seconds, _THINNEST)
        yield Bar(
            stage.stage,
            round(min(100 * began / seconds, 100 - width), 2),
            round(width, 2),
            stage.tone,
            f"stage {stage.stage}, {stage.task_type} on {queue}: {stage.text}, {duration(ended - began)}",
        )
