"""The grid: which operations are measured on which sources, of which sizes, on how many cores.

All combinations would take days. The kinds of sources go round from size to size, so that every operation
meets every kind, and every kind every size, with main effects apart from one another; cores alternate.
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
        Of `benchmarks.compare.sources.cases`.
    megabytes : float
        Uncompressed, as asked for; the source's own size is close to it.
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
        """What is done, in one word: ``create_cog:analysis+warp``."""
        return f"{self.operation}:{self.variant}{'+warp' * self.warps}"

    @property
    def key(self) -> str:
        """What it is compared by from store to store."""
        kind = f"{self.case}/{self.layout}{f'-{self.compress}' if self.compress else ''}"
        return f"{self.operation_name}/{kind}/{self.megabytes:g}MB/{self.cores}c/{self.storage}"


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes
    ----------
    sizes : tuple of float
        Uncompressed megabytes, from small to large.
    kinds : tuple of int
        Kinds of sources for each operation, size by size.
    rounds : tuple of int
        Runs of each cell, size by size.
    minutes : float
        Wall time; infinite for as long as it takes.
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

# Real imagery and synthetic, all kinds of samples, plain and compressed, strips and tiles.
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
    """What ``--operations`` takes."""
    return ["create_cog", "extract_tiles", *(_name(*each) for each in _OPERATIONS)]


def grid(
    budget: Budget,
    *,
    operations: Sequence[str] = (),
    cores: Sequence[int] = (1,),
    storage: Storage = "local",
    seed: int = 0,
) -> list[Cell]:
    """The cells of a budget, small ones first.

    Parameters
    ----------
    operations : sequence of str
        Of `operation_names`; all of them for none.
    cores : sequence of int
        Numbers of cores, which alternate, the last one first.
    seed : int
        Where in the round of kinds each operation begins.

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
            # A step that shares no factor with the number of kinds meets all of them.
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
    """The kinds of sources that a variant is for: JPEG takes three bytes a pixel."""
    for kind in _KINDS:
        case = CASES[kind[0]]
        if variant != "visualization" or (case.bands, case.dtype) == (3, "uint8"):
            yield kind


def _name(operation: Operation, variant: str, warps: bool) -> str:
    return f"{operation}:{variant}{'+warp' * warps}"
