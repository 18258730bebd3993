"""The policy for adaptive DEFLATE in a scheme's tiles, decided by trials of blocks from all over its grid.

The decision depends on raster, scheme and options alone: a tile has the same bytes whichever tiles are
written before, after or beside it, on any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from gdaltools.cog.encode.adaptive import Policy, Trial
from gdaltools.cog.pieces.geometry import spread
from gdaltools.cog.pieces.pyramid import try_blocks
from gdaltools.cog.pieces.sink import MemorySink
from gdaltools.cog.write.assemble import FEW_BLOCKS, MOST_TRIALS, TRIAL_ROWS, TRIALS_SHARE, decided
from gdaltools.raster.dataset import block_cache
from gdaltools.runtime import graph
from gdaltools.tiles.extract.groups import Position, TileGroup
from gdaltools.tiles.extract.plan import ExtractionPlan
from gdaltools.warp.target import OpenTile

TrialResult = tuple[int, list[Trial]]
Block = tuple[Position, int, int]


def policy_of(plan: ExtractionPlan) -> Policy:
    """Return the policy for DEFLATE in all tiles, from trials of blocks from all over the grid."""
    found: dict[int, list[Trial]] = {}

    def ended(answer: TrialResult) -> None:
        found[answer[0]] = answer[1]

    graph.run_each(TrialTask.__call__, trial_tasks(plan), ended=ended)
    return decided([found[index] for index in sorted(found)], plan.layout.profile.size_tolerance)


@dataclass(frozen=True)
class TrialTask:
    """The callable that runs the trials of one row of blocks."""

    plan: ExtractionPlan
    index: int
    blocks: list[Block]

    def __call__(self) -> TrialResult:
        """Return the row's number and the trials of its blocks."""
        trials: list[Trial] = []
        with block_cache(self.plan.cache_bytes), self.plan.pixels.opened() as opened:
            for place, row, col in self.blocks:
                tile = self.plan.plan_of(place)
                source = OpenTile(self.plan.pixels, self.plan.scheme.window(*place), opened)
                trials += try_blocks(tile.work(MemorySink()), source, [(row, col)])
        return self.index, trials


def trial_tasks(plan: ExtractionPlan) -> list[TrialTask]:
    """Return a task for each row of trial blocks, whichever tiles are to be written."""
    scheme, block = plan.scheme, plan.layout.profile.blocksize
    grid = scheme.grid
    total = grid.width * grid.height // block**2
    if not plan.layout.profile.size_tolerance or total < FEW_BLOCKS:
        return []
    cols = max(1, min(MOST_TRIALS, total // TRIALS_SHARE) // TRIAL_ROWS)
    tasks = []
    for index, line in enumerate(spread(grid.height, grid.width, TRIAL_ROWS, cols)):
        blocks = []
        for y, x in line:
            place = scheme.place_of(y, x)
            window = scheme.window(*place)
            blocks.append((place, (y - window.row_off) // block, (x - window.col_off) // block))
        row = blocks[0][0][0]
        columns = [place[1] for place, _, _ in blocks]
        group = TileGroup(range(row, row + 1), range(min(columns), max(columns) + 1))
        tasks.append(TrialTask(plan.part(group), index, list(dict.fromkeys(blocks))))
    return tasks
