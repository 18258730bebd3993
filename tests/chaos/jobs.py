"""The jobs of a chaos run: real rasters, tasks that do nothing, and a few that cannot succeed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import rasterio

import gdaltools as gt
from tests.chaos.own_platform import OwnPlatform
from tests.support.platform.jobs import LARGE_RASTER, NOOP
from tests.support.platform.stand_in import Platform
from tests.support.rasters import UTM, UTM_GRID, elevation, smooth, write_raster

BRONZE, COGS = "bronze-rasters", "silver-cogs"
_KINDS = ("rgb", "dem", "nothing", "broken")
_WEIGHTS = (2, 1, 5, 1)


@dataclass
class Jobs:
    """A seeded stream of jobs, and the record of each."""

    platform: Platform | OwnPlatform
    blobs: Path
    random: Random
    kinds: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def make_sources(self) -> None:
        """Write the rasters that the jobs process."""
        bronze = self.blobs / BRONZE
        write_raster(bronze / "rgb.tif", smooth(3, 500, 700), crs=UTM, transform=UTM_GRID)
        write_raster(bronze / "dem.tif", elevation(400, 600), crs=UTM, transform=UTM_GRID, nodata=-9999.0)
        (bronze / "no-raster.tif").write_text("this is no raster")

    async def submit(self, kind: str | None = None) -> str:
        """Submit one more job."""
        kind = kind or self.random.choices(_KINDS, _WEIGHTS)[0]
        name = f"{kind}-{len(self.kinds)}"
        if isinstance(self.platform, OwnPlatform) or kind in ("rgb", "dem"):
            kind = "rgb" if kind == "nothing" else kind
            name = f"{kind}-{len(self.kinds)}"
            job_id = await self.platform.submit(
                {
                    "container_name": BRONZE,
                    "blob_name": "no-raster.tif" if kind == "broken" else f"{kind}.tif",
                    "tile_size": 256,
                    "overlap": 32,
                    "output_folder": name,
                    "collection_id": name,
                },
                job_type=LARGE_RASTER,
            )
        else:
            task: dict[str, Any] = {"task_type": "sleep", "task_parameters": {"seconds": 0.2, "name": name}}
            if kind == "broken":
                task = {
                    "task_type": "create_cog",
                    "task_parameters": {"container_name": BRONZE, "blob_name": f"{name}.tif"},
                }
            job_id = await self.platform.submit({"stages": 3, "tasks": 4, **task}, job_type=NOOP)
        self.kinds[job_id], self.folders[job_id] = kind, name
        return job_id

    def products(self, job_id: str) -> dict[str, tuple[Any, ...]]:
        """Return what a raster job made, by name: the checksums and the form of every tile and COG."""
        stem = self.kinds[job_id]
        tiles = (self.blobs / "silver-mosaicjson" / job_id[:8] / "tiles").glob("*.tif")
        cogs = (self.blobs / COGS / self.folders[job_id]).glob("*.tif")
        found = {f"tile {path.name}": _described(path) for path in tiles}
        for path in cogs:
            assert gt.validate_cog(path).valid, path
            found[f"cog {path.name}"] = _described(path)
        assert found, f"{stem} job {job_id[:8]} made nothing"
        return found


def _described(path: Path) -> tuple[Any, ...]:
    with rasterio.open(path) as dataset:
        sums = [dataset.checksum(band) for band in dataset.indexes]
        masks = [int(dataset.read_masks(band).sum()) for band in dataset.indexes]
        form = (
            dataset.shape,
            dataset.dtypes,
            str(dataset.crs),
            tuple(dataset.transform),
            dataset.overviews(1),
        )
        return (sums, masks, form)
