"""How adaptive DEFLATE is written in all tiles of a scheme, decided by blocks from all over its grid.

The decision depends on raster, scheme and options alone: a tile has the same bytes whichever others are made,
before or after it, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gdaltools import graph
from gdaltools.cog.adaptive import Policy, Trial, find_policy
from gdaltools.cog.pyramid import try_blocks
from gdaltools.cog.sink import MemorySink
from gdaltools.extraction_plan import ExtractionPlan, Position

# Blocks that are tried: in so many rows and columns over the whole grid, and none where there are few.
_ROWS, _COLS, _FEW_BLOCKS = 6, 5, 64

Tried = tuple[int, list[Trial]]


def policy_of(plan: ExtractionPlan) -> Policy:
    """How DEFLATE is written in all tiles, after blocks from all over the grid were tried."""
    places = trial_places(plan)
    found: dict[int, list[Trial]] = {}

    def ended(answer: Tried) -> None:
        found[answer[0]] = answer[1]

    graph.run_each(Trying(plan), list(enumerate(places)), ended=ended)
    return decided(plan, [found[index] for index in sorted(found)])


def decided(plan: ExtractionPlan, trials: Sequence[Sequence[Trial]]) -> Policy:
    """The policy that the trials of the blocks, in their order, let choose."""
    tolerance = plan.layout.profile.size_tolerance
    return find_policy((trial for some in trials for trial in some), tolerance) if tolerance else Policy()


@dataclass(frozen=True)
class Trying:
    """The call that tries one block."""

    plan: ExtractionPlan

    def __call__(self, given: tuple[int, tuple[Position, int, int]]) -> Tried:
        """What the encoders make of a numbered block, and its number."""
        index, (place, row, col) = given
        tile = self.plan.plan_of(place)
        return index, try_blocks(tile.work(MemorySink()), tile.source, row, [col])


def trial_places(plan: ExtractionPlan) -> list[tuple[Position, int, int]]:
    """Blocks that are tried: (tile, row, column of its blocks), whichever tiles are to be made."""
    scheme, block = plan.scheme, plan.layout.profile.blocksize
    grid = scheme.grid
    if not plan.layout.profile.size_tolerance or grid.width * grid.height < _FEW_BLOCKS * block**2:
        return []
    found = []
    for line in range(_ROWS):
        y = (2 * line + 1) * grid.height // (2 * _ROWS)
        for number in range(_COLS):
            # Each row's begin elsewhere, so that columns are not all the same.
            x = int((number + line / _ROWS) * grid.width / _COLS)
            place = scheme.place_of(y, x)
            window = scheme.window(*place)
            found.append((place, (y - window.row_off) // block, (x - window.col_off) // block))
    return list(dict.fromkeys(found))
