"""``da.gt``: what gdaltools does with an xarray.DataArray, where one is at hand.

>>> import gdaltools.accessor
>>> result = da.gt.to_cog("ndvi.tif")  # doctest: +SKIP
>>> result = da.gt.to_tiles("tiles/", tile_size=4096)  # doctest: +SKIP

It is registered when this module is imported: by `gdaltools.open`, and by ``import gdaltools`` after xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray

if TYPE_CHECKING:
    from gdaltools.cog.result import CogResult
    from gdaltools.extraction_result import ExtractionResult
    from gdaltools.progress import ProgressOption
    from gdaltools.storage import Location, StrPath


@xarray.register_dataarray_accessor("gt")  # type: ignore[no-untyped-call]
class GdaltoolsAccessor:
    """gdaltools' methods of a DataArray."""

    def __init__(self, array: xarray.DataArray) -> None:
        self._array = array

    def to_cog(self, dst: StrPath | Location, profile: str = "analysis", **options: Any) -> CogResult:
        """Write the array as a COG; `options` are those of `gdaltools.create_cog`.

        What dask is to compute is computed piece by piece, as the pieces are written.

        Raises
        ------
        InvalidParameter, UnsupportedRaster, TargetExists, StorageError
            As `create_cog` does.
        """
        from gdaltools.cog.create import create_cog

        result: CogResult = create_cog(self._array, dst, profile, **options)
        return result

    def to_tiles(
        self,
        dst: StrPath | Location,
        profile: str = "analysis",
        *,
        tile_size: int | None = None,
        overlap: int = 0,
        stem: str | None = None,
        overwrite: bool = False,
        progress: ProgressOption = "auto",
        **options: Any,
    ) -> ExtractionResult:
        """Write the array as one COG for each tile, as ``{stem}_tile_{row}_{col}.tif`` below `dst`.

        What dask is to compute is computed piece by piece; tiles are whole chunks by default, so that each is
        computed once.

        Parameters
        ----------
        tile_size : int, optional
            Side of a tile in pixels, a multiple of 16; by default about 450 MB.
        overlap : int
            Pixels that neighbours share.
        stem : str, optional
            First part of the names; by default the array's name, or "array".
        options
            Those of `create_cog` that say how a COG is encoded: codec, level, quality, ...

        Raises
        ------
        InvalidParameter, UnsupportedRaster, TargetExists, StorageError
            As `create_cog` does.
        """
        from gdaltools.array_tiles import array_tiles
        from gdaltools.cog.plan import Wanted
        from gdaltools.errors import InvalidParameter

        try:
            wanted = Wanted(profile=profile, **options)
        except TypeError as error:
            raise InvalidParameter(f"to_tiles: {error}") from error
        return array_tiles(
            self._array,
            dst,
            tile_size=tile_size,
            overlap=overlap,
            stem=stem,
            wanted=wanted,
            overwrite=overwrite,
            progress=progress,
        )
