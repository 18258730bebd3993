"""How each library reads a whole raster: the sum of every band, computed on `threads` threads.

As in `benchmarks.compare.peers.cogs`, a reader imports what its user would import and returns the call to
time. That call writes the sums to the job's `target`, where they are compared with those of a plain loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.jobs import CheckReadJob, ReadJob

Read = Callable[[], object]

_CHUNK = 2048


def engine(job: ReadJob) -> Read:
    """Return a call of ``gdaltools.open``, summed by dask."""
    import dask.array  # noqa: F401
    import rioxarray  # noqa: F401 - imports of opening are loaded before the call, as for the others

    import gdaltools as gt

    def read() -> None:
        _summed(gt.open(job.source), job)

    return read


def rioxarray_dask(job: ReadJob) -> Read:
    """Return a call of rioxarray's ``open_rasterio`` with chunks and without a lock, summed by dask."""
    import rioxarray

    def read() -> None:
        chunks = {"y": _CHUNK, "x": _CHUNK}
        with rioxarray.open_rasterio(job.source, chunks=chunks, lock=False) as array:
            _summed(array, job)

    return read


def odc_stac(job: ReadJob) -> Read:
    """Return a call of odc-stac's ``load`` of an item created beforehand, summed by dask."""
    import odc.stac

    import gdaltools as gt

    item = gt.create_stac_item(job.source, item_id="source")
    bands = len(item.assets["data"].extra_fields["raster:bands"])
    names = [f"data.{band}" for band in range(1, bands + 1)]

    def read() -> None:
        loaded = odc.stac.load([item], bands=names, chunks={"y": _CHUNK, "x": _CHUNK})
        _summed(loaded.to_array("band").isel(time=0), job)

    return read


def rasterio_whole(job: ReadJob) -> Read:
    """Return a call of rasterio's ``read()`` of the whole raster at once."""
    import rasterio

    def read() -> None:
        with rasterio.Env(GDAL_NUM_THREADS=job.threads), rasterio.open(job.source) as dataset:
            _leave(job.target, dataset.read().sum(axis=(1, 2), dtype="float64"))

    return read


def rasterio_windows(job: ReadJob) -> Read:
    """Return a call of rasterio by windows, on threads with a handle each."""
    import rasterio
    from rasterio.windows import Window

    def read() -> None:
        with rasterio.open(job.source) as dataset:
            height, width = dataset.height, dataset.width
        windows = [
            Window(col, row, min(_CHUNK, width - col), min(_CHUNK, height - row))
            for row in range(0, height, _CHUNK)
            for col in range(0, width, _CHUNK)
        ]

        def part(window: Window) -> Any:
            with rasterio.open(job.source) as dataset:
                return dataset.read(window=window).sum(axis=(1, 2), dtype="float64")

        with ThreadPoolExecutor(job.threads) as pool:
            _leave(job.target, sum(pool.map(part, windows)))

    return read


READERS: dict[str, Callable[[ReadJob], Read]] = {
    "read-engine": engine,
    "read-rioxarray": rioxarray_dask,
    "read-odc-stac": odc_stac,
    "read-rasterio": rasterio_whole,
    "read-rasterio-windows": rasterio_windows,
}


def check_read(job: CheckReadJob) -> dict[str, Any]:
    """Check the sums against the raster's; a dict as from `benchmarks.compare.checks.cogs.check`."""
    import rasterio

    found = np.array(json.loads(Path(job.target).read_text()))
    with rasterio.open(job.source) as dataset:
        expected = sum(
            dataset.read(window=window).sum(axis=(1, 2), dtype="float64")
            for _, window in dataset.block_windows()
        )
    same = found.shape == expected.shape and np.allclose(found, expected, rtol=1e-9)
    problems = [] if same else [f"sums are {found.tolist()} instead of {expected.tolist()}"]
    return {"valid": True, "pixels_identical": same, "problems": problems}


def _summed(array: Any, job: ReadJob) -> None:
    import dask

    with dask.config.set(scheduler="threads", num_workers=job.threads):
        _leave(job.target, array.sum(dim=("y", "x"), dtype="float64", skipna=False).compute().values)


def _leave(target: str, sums: Iterable[Any]) -> None:
    Path(target).write_text(json.dumps([float(each) for each in sums]))
