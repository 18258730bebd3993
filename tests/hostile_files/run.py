"""A run: files damaged by a seed, read by a child that is replaced when it dies or takes too long."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from gdaltools.errors import GdalToolsError
from gdaltools.raster.dataset import open_dataset, read_window
from gdaltools.raster.info import inspect
from tests.fuzz_cog.damage import damaged
from tests.fuzz_cog.sources import write_sources
from tests.support.rasters import smooth, write_netcdf

_MEMORY_BYTES = 4 << 30
_SECONDS = 30
_MOST_SAMPLES = 4_000_000


@dataclass(frozen=True)
class Read:
    """The outcome of reading a file: "read", the name of an error, or how the child ended."""

    number: int
    source: str
    ended: str
    typed: bool
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """The findings of a run."""

    reads: tuple[Read, ...]

    @property
    def untyped(self) -> tuple[Read, ...]:
        """The reads that ended neither with pixels nor with one of our errors."""
        return tuple(read for read in self.reads if not read.typed)

    def __str__(self) -> str:
        counts = Counter(read.ended for read in self.reads)
        refused = [read.seconds for read in self.reads if read.ended != "read"]
        lines = [f"{count:6d} {ended}" for ended, count in counts.most_common()]
        median = statistics.median(refused) * 1000 if refused else 0.0
        lines.append(
            f"median time of a refusal {median:.1f} ms, longest {max(refused, default=0) * 1000:.0f} ms"
        )
        lines += [f"not typed: file {read.number} of {read.source}: {read.ended}" for read in self.untyped]
        return "\n".join(lines)


def run(files: int, *, seed: int = 1) -> Verdict:
    """Read `files` damaged files."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        write_sources(whole)
        write_netcdf(whole / "several.nc", smooth(2, 60, 80))
        write_netcdf(whole / "one.nc", smooth(1, 200, 150))
        return Verdict(tuple(_reads(whole, files, seed)))


def _reads(whole: Path, files: int, seed: int) -> Iterator[Read]:
    context = multiprocessing.get_context("spawn")
    number = 0
    while number < files:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(whole, number, files, seed, there), daemon=True)
        child.start()
        there.close()
        while number < files:
            began = time.monotonic()
            try:
                text = here.poll(_SECONDS)
                read = here.recv() if text else None
            except EOFError:
                read = None
            if read is None:
                child.kill()
                child.join()
                yield Read(number, "?", f"child ended: {child.exitcode}", False, time.monotonic() - began)
                number += 1
                break
            yield read
            number += 1
        child.join()


def _child(whole: Path, first: int, files: int, seed: int, text: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    sources = sorted(whole.iterdir())
    for number in range(first, files):
        random = Random(f"{seed}-{number}")
        source = random.choice(sources)
        path = whole.parent / f"{number}{source.suffix}"
        path.write_bytes(damaged(source.read_bytes(), random))
        began = time.monotonic()
        ended, typed = _outcome(path)
        text.send(Read(number, source.name, ended, typed, time.monotonic() - began))
        path.unlink()


def _outcome(path: Path) -> tuple[str, bool]:
    try:
        info = inspect(path)
        with open_dataset(path) as dataset:
            rows, cols = dataset.block_shapes[0]
            if rows * cols * info.count <= _MOST_SAMPLES and info.width * info.height <= _MOST_SAMPLES:
                read_window(dataset, str(path), dataset.block_window(1, 0, 0))
                read_window(dataset, str(path), _last(info.width, info.height))
    except GdalToolsError as error:
        return type(error).__name__, True
    except BaseException as error:  # noqa: BLE001 - what else came is the finding
        return repr(error)[:200], False
    return "read", True


def _last(width: int, height: int):  # type: ignore[no-untyped-def]
    from rasterio.windows import Window

    return Window(max(0, width - 64), max(0, height - 64), min(64, width), min(64, height))
