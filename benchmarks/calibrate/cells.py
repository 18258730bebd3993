"""The grid: which operations are measured on which sources, at which sizes, on how many cores.

All combinations would take days. The kinds of sources rotate from size to size: every operation meets every
kind, every kind meets every size, and the main effects stay separable. The numbers of cores alternate.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from benchmarks.compare.sources.cases import CASES
from gdaltools.cost.workload import Operation
from gdaltools.errors import InvalidParameter

Scale = Literal["quick", "default", "full"]
SourceLayout = Literal["striped", "tiled"]
Storage = Literal["local", "azurite", "azure"]


class Cell(BaseModel):
    """One operation on one source.

    Attributes
    ----------
    case : str
        A name from `benchmarks.compare.sources.cases`.
    megabytes : float
        Requested uncompressed size; the source's actual size is close to it.
    compress : str or None
        The source's codec.
    """

    model_config = ConfigDict(frozen=True)

    operation: Operation
    variant: str
    warps: bool = False
    case: str
    layout: SourceLayout
    compress: str | None = None
    megabytes: float
    cores: int
    storage: Storage = "local"

    @property
    def operation_name(self) -> str:
        """The operation as one word: ``create_cog:analysis+warp``."""
        return f"{self.operation}:{self.variant}{'+warp' * self.warps}"

    @property
    def key(self) -> str:
        """The key that identifies the cell across stores."""
        kind = f"{self.case}/{self.layout}{f'-{self.compress}' if self.compress else ''}"
        return f"{self.operation_name}/{kind}/{self.megabytes:g}MB/{self.cores}c/{self.storage}"


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes
    ----------
    sizes : tuple of float
        Uncompressed megabytes, in ascending order.
    kinds : tuple of int
        Kinds of sources per operation, for each size.
    rounds : tuple of int
        Runs of each cell, for each size.
    minutes : float
        Limit on wall time; infinite for no limit.
    """

    sizes: tuple[float, ...]
    kinds: tuple[int, ...]
    rounds: tuple[int, ...]
    minutes: float


BUDGETS: dict[Scale, Budget] = {
    "quick": Budget((6, 18, 54), (3, 2, 2), (1, 1, 1), 3),
    "default": Budget((8, 24, 72, 216, 650), (3, 4, 5, 6, 4), (2, 2, 2, 1, 1), 20),
    "full": Budget(
        (8, 24, 72, 216, 650, 2000, 6000), (9, 9, 9, 9, 9, 6, 3), (3, 3, 3, 3, 3, 2, 1), float("inf")
    ),
}

# Real and synthetic imagery, all kinds of samples, plain and compressed, in strips and in tiles.
_KINDS: tuple[tuple[str, SourceLayout, str | None], ...] = (
    ("relief", "striped", None),
    ("noise-u16", "tiled", "zstd"),
    ("dem-f32", "striped", "deflate"),
    ("noise-rgb", "striped", None),
    ("relief", "tiled", "deflate"),
    ("noise-u16", "striped", None),
    ("dem-f32", "tiled", None),
    ("landsat", "tiled", "lzw"),
    ("bluemarble", "striped", "lzw"),
)
_OPERATIONS: tuple[tuple[Operation, str, bool], ...] = (
    ("create_cog", "analysis", False),
    ("create_cog", "archive", False),
    ("create_cog", "fast", False),
    ("create_cog", "visualization", False),
    ("create_cog", "analysis", True),
    ("extract_tiles", "window", False),
    ("extract_tiles", "warp", False),
)


def operation_names() -> list[str]:
    """Return the values that ``--operations`` accepts."""
    return ["create_cog", "extract_tiles", *(_name(*each) for each in _OPERATIONS)]


def grid(
    budget: Budget,
    *,
    operations: Sequence[str] = (),
    cores: Sequence[int] = (1,),
    storage: Storage = "local",
    seed: int = 0,
) -> list[Cell]:
    """Return the cells of a budget, small ones first.

    Parameters
    ----------
    operations : sequence of str
        Names from `operation_names`; empty for all of them.
    cores : sequence of int
        Numbers of cores, which alternate, the last one first.
    seed : int
        Selects the kind that the rotation begins with.

    Raises
    ------
    InvalidParameter
        An operation is unknown.
    """
    for name in operations:
        if name not in operation_names():
            raise InvalidParameter(
                f"operation {name!r} is unknown: use some of {', '.join(operation_names())}"
            )
    chosen = [each for each in _OPERATIONS if not operations or {each[0], _name(*each)} & set(operations)]
    first = random.Random(seed).randrange(len(_KINDS))
    cells = []
    for step, (size, count) in enumerate(zip(budget.sizes, budget.kinds, strict=True)):
        for number, (operation, variant, warps) in enumerate(chosen):
            kinds = list(_fitting(variant))
            # The rotation meets all kinds when its step shares no factor with their number.
            begin = first + number + step * count
            for turn in range(min(count, len(kinds))):
                case, layout, compress = kinds[(begin + turn) % len(kinds)]
                cells.append(
                    Cell(
                        operation=operation,
                        variant=variant,
                        warps=warps,
                        case=case,
                        layout=layout,
                        compress=compress,
                        megabytes=size,
                        cores=cores[-1 - (turn + step + number) % len(cores)],
                        storage=storage,
                    )
                )
    return cells


def _fitting(variant: str) -> Iterator[tuple[str, SourceLayout, str | None]]:
    """Yield the kinds of sources that a variant accepts: JPEG requires three bytes per pixel."""
    for kind in _KINDS:
        case = CASES[kind[0]]
        if variant != "visualization" or (case.bands, case.dtype) == (3, "uint8"):
            yield kind


def _name(operation: Operation, variant: str, warps: bool) -> str:
    return f"{operation}:{variant}{'+warp' * warps}"
