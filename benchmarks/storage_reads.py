"""Rasters in Azure, copied locally or read by windows: ``python -m benchmarks.storage_reads``.

Needs AZURE_STORAGE_CONNECTION_STRING of an account with a writable container ``bronze-benchmark``. For each
layout and each share of a raster to read, both ways take turns. The table shows their medians, which of them
gdaltools would choose, how much slower that choice is than the better one, and the SDK's own parallel
download for comparison. The exit code is 0; 1 if a choice is slower by more than a tenth; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from benchmarks.command import OK, exit_with, run_command
from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.raster.dataset import open_dataset, read_window
from gdaltools.storage import Location, staging

SLOWER = 1

_CONTAINER = "bronze-benchmark"
_SIDE = 1024
_TOLERANCE = 1.1
_TILES: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512}
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": _TILES,
    "deflated tiles": {**_TILES, "compress": "deflate", "predictor": 2},
    "strips": {"blockysize": 16},
    "deflated strips": {"blockysize": 16, "compress": "deflate", "predictor": 2},
}


@dataclass(frozen=True)
class Case:
    """Measurements of one layout and one share, in seconds.

    Attributes
    ----------
    sdk : float
        The whole blob with the SDK's ``download_blob(max_concurrency=4)``.
    fetches : bool
        Whether gdaltools would make a local copy.
    """

    layout: str
    share: float
    near: float
    windows: float
    sdk: float
    fetches: bool

    @property
    def loss(self) -> float:
        """Time of the chosen way, as a multiple of the better one's."""
        return (self.near if self.fetches else self.windows) / min(self.near, self.windows)

    def __str__(self) -> str:
        return (
            f"{self.layout:<16}{self.share:>6.0%}{self.near:>10.2f}{self.windows:>10.2f}{self.sdk:>10.2f}"
            f"  {'near' if self.fetches else 'windows':<8}{self.loss:>6.2f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage_reads", description=__doc__)
    parser.add_argument("--megabytes", type=float, default=100, help="of a raster, uncompressed")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.3, 0.5, 1.0])
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return run_command(parser, arguments, _measure)


def _measure(args: argparse.Namespace) -> int:
    if not os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        raise InvalidParameter("set AZURE_STORAGE_CONNECTION_STRING to an account for this")
    print(f"{'layout':<16}{'share':>6}{'near':>10}{'windows':>10}{'SDK':>10}  {'chosen':<8}{'loss':>6}")
    cases = []
    for case in _cases(args.layouts, args.shares, args.megabytes, args.rounds, args.threads):
        print(case, flush=True)
        cases.append(case)
    return OK if all(case.loss <= _TOLERANCE for case in cases) else SLOWER


def _cases(
    layouts: Sequence[str], shares: Sequence[float], megabytes: float, rounds: int, threads: int
) -> Iterator[Case]:
    for layout in layouts:
        location = storage.locate(f"abfs://{_CONTAINER}/{layout.replace(' ', '-')}.tif")
        with storage.writing(location, overwrite=True) as path:
            _write(path, megabytes, LAYOUTS[layout])
        for share in shares:
            ways: dict[str, Callable[[], None]] = {
                "near": lambda location=location, share=share: _read_staged(location, share, threads),  # type: ignore[misc]
                "windows": lambda location=location, share=share: _read(location, share, threads),  # type: ignore[misc]
                "sdk": lambda location=location: _download(location),  # type: ignore[misc]
            }
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                # In turns, with alternating order, so that other load on the machine affects all of them.
                order = list(ways) if number % 2 else list(reversed(ways))
                for way in order:
                    seconds[way].append(_seconds(ways[way]))
            medians = {way: statistics.median(each) for way, each in seconds.items()}
            yield Case(layout, share, **medians, fetches=staging.is_worth_staging(location, share))
        storage.delete(location)


def _write(path: Path, megabytes: float, options: dict[str, Any]) -> None:
    """Write three bands of hills with a little noise, which deflate by about a half."""
    side = max(_SIDE, round((megabytes * 1e6 / 3) ** 0.5) // 16 * 16)
    random = np.random.default_rng(0)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=3,
        dtype="uint8",
        interleave="pixel",
        **options,
    ) as target:
        for top in range(0, side, 512):
            rows = min(512, side - top)
            hills = (
                np.add.outer(np.sin(np.arange(top, top + rows) / 90), np.cos(np.arange(side) / 70)) * 60 + 127
            )
            noise = random.integers(0, 12, (3, rows, side))
            target.write((hills + noise).astype("uint8"), window=Window(0, top, side, rows))


def _windows(width: int, height: int, share: float) -> list[Window]:
    """Return a share of the raster's windows from its middle, as a job of some tiles reads them."""
    found = [
        Window(left, top, min(_SIDE, width - left), min(_SIDE, height - top))
        for top in range(0, height, _SIDE)
        for left in range(0, width, _SIDE)
    ]
    count = max(1, round(share * len(found)))
    first = (len(found) - count) // 2
    return list(islice(found, first, first + count))


def _read(location: Location, share: float, threads: int) -> None:
    with open_dataset(location, verify=False) as dataset:
        windows = _windows(dataset.width, dataset.height, share)

    def read(part: list[Window]) -> None:
        with open_dataset(location, verify=False) as dataset:
            for window in part:
                read_window(dataset, location, window)

    step = -(-len(windows) // threads)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, [windows[at : at + step] for at in range(0, len(windows), step)]))


def _read_staged(location: Location, share: float, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _read(storage.fetch(location, Path(folder) / "near.tif"), share, threads)


def _download(location: Location) -> None:
    from azure.storage.blob import BlobClient

    client = BlobClient.from_connection_string(
        os.environ["AZURE_STORAGE_CONNECTION_STRING"], str(location.container), location.name
    )
    with tempfile.TemporaryFile() as target, client:
        client.download_blob(max_concurrency=4).readinto(target)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    exit_with(main)
