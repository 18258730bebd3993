"""How adaptive DEFLATE is written in all tiles of a scheme, decided by blocks from all over its grid.

The decision depends on raster, scheme and options alone: a tile has the same bytes whichever others are made,
before or after it, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gdaltools.cog.encode.adaptive import Policy, Trial, find_policy
from gdaltools.cog.pieces.pyramid import try_blocks
from gdaltools.cog.pieces.sink import MemorySink
from gdaltools.raster.dataset import block_cache
from gdaltools.runtime import graph
from gdaltools.tiles.extract.groups import Position
from gdaltools.tiles.extract.plan import ExtractionPlan
from gdaltools.warp.target import OpenTile, TileSource

# Blocks that are tried: in few rows, as a source in strips is read by rows, at most such a part of all, and
# none where there are few.
_ROWS, _COLS, _SHARE, _FEW_BLOCKS = 8, 8, 8, 64

TrialResult = tuple[int, list[Trial]]
Block = tuple[Position, int, int]


def policy_of(plan: ExtractionPlan) -> Policy:
    """How DEFLATE is written in all tiles, after blocks from all over the grid were tried."""
    found: dict[int, list[Trial]] = {}

    def ended(answer: TrialResult) -> None:
        found[answer[0]] = answer[1]

    graph.run_each(TrialTask(replace(plan, groups=())), list(enumerate(trial_rows(plan))), ended=ended)
    return decided(plan, [found[index] for index in sorted(found)])


def decided(plan: ExtractionPlan, trials: Sequence[Sequence[Trial]]) -> Policy:
    """The policy that the trials of the rows, in their order, let choose."""
    tolerance = plan.layout.profile.size_tolerance
    return find_policy((trial for some in trials for trial in some), tolerance) if tolerance else Policy()


@dataclass(frozen=True)
class TrialTask:
    """The call that tries a row of blocks."""

    plan: ExtractionPlan

    def __call__(self, given: tuple[int, list[Block]]) -> TrialResult:
        """What the encoders make of the blocks of a numbered row, and its number."""
        index, blocks = given
        trials: list[Trial] = []
        with block_cache(self.plan.cache_bytes), self.plan.pixels.opened() as opened:
            for place, row, col in blocks:
                tile = self.plan.plan_of(place)
                source = OpenTile(TileSource(self.plan.pixels, self.plan.scheme.window(*place)), opened)
                trials += try_blocks(tile.work(MemorySink()), source, row, [col])
        return index, trials


def trial_rows(plan: ExtractionPlan) -> list[list[Block]]:
    """Rows of blocks that are tried: (tile, row, column of its blocks), whichever tiles are to be made."""
    scheme, block = plan.scheme, plan.layout.profile.blocksize
    grid = scheme.grid
    total = grid.width * grid.height // block**2
    if not plan.layout.profile.size_tolerance or total < _FEW_BLOCKS:
        return []
    cols = max(1, min(_COLS, total // (_SHARE * _ROWS)))
    found = []
    for line in range(_ROWS):
        y = (2 * line + 1) * grid.height // (2 * _ROWS)
        # Each row's begin elsewhere, so that columns are not all the same.
        columns = (int((number + line / _ROWS) * grid.width / cols) for number in range(cols))
        blocks = []
        for x in columns:
            place = scheme.place_of(y, x)
            window = scheme.window(*place)
            blocks.append((place, (y - window.row_off) // block, (x - window.col_off) // block))
        found.append(list(dict.fromkeys(blocks)))
    return found
