"""``da.gt`` and ``ds.gt``: what gdaltools does with a DataArray or a Dataset, where one is at hand.

>>> import gdaltools.xr.accessor
>>> da.gt.to_cog("cog.tif").tier
'analysis'
>>> len(ds.gt.to_tiles("tiles/", tile_size=512).tiles)
4

Importing this module registers them: `gdaltools.open` does so, and ``import gdaltools`` after xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray

if TYPE_CHECKING:
    from gdaltools.cog.result import CogResult
    from gdaltools.display.progress import ProgressOption
    from gdaltools.raster.info import RasterInfo
    from gdaltools.storage import Location, StrPath
    from gdaltools.tiles.extract.result import ExtractionResult
    from gdaltools.tiles.scheme import TilingScheme


class _Accessor:
    """gdaltools' methods of anything in xarray that is a raster."""

    def _raster(self) -> xarray.DataArray:
        """The pixels as one array of (band, y, x) or (y, x)."""
        raise NotImplementedError

    def inspect(self) -> RasterInfo:
        """What it is as a raster: size, CRS, transform, bands, nodata, chunks. Nothing is computed.

        Raises
        ------
        UnsupportedRaster
            It is no raster: it has other dimensions, or a dtype that no TIFF holds.

        Examples
        --------
        >>> da.gt.inspect().shape
        (3, 600, 800)
        """
        from gdaltools.xr.info import array_info

        return array_info(self._raster())

    def tiles(self, tile_size: int | None = None, overlap: int = 0) -> TilingScheme:
        """The tiles that `to_tiles` would write, as a scheme to look at.

        Raises
        ------
        UnsupportedRaster, InvalidParameter
            It is no raster, or has no CRS; the sizes do not go together.

        Examples
        --------
        >>> ds.gt.tiles(256, 32).rows
        3
        """
        from gdaltools.xr.info import array_scheme
        from gdaltools.xr.tiles import tile_size_of

        raster = self._raster()
        return array_scheme(raster, tile_size if tile_size is not None else tile_size_of(raster), overlap)

    def to_cog(self, dst: StrPath | Location, profile: str = "analysis", **options: Any) -> CogResult:
        """Write it as a COG; `options` are those of `gdaltools.create_cog`.

        What dask is to compute is computed piece by piece, as the pieces are written. The variables of a
        Dataset become bands under their names. Floating-point numbers without a nodata value get NaN as one,
        as that is how xarray says that there is no data.

        Raises
        ------
        InvalidParameter, UnsupportedRaster, TargetExists, StorageError
            As `create_cog` does.

        Examples
        --------
        >>> da.gt.to_cog("cog.tif", "fast", progress=False).band_count
        3
        """
        from gdaltools.cog.create import create_cog

        result: CogResult = create_cog(self._raster(), dst, profile, **options)
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
        """Write it as one COG for each tile, as ``{stem}_tile_{row}_{col}.tif`` below `dst`.

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

        Examples
        --------
        >>> len(ds.gt.to_tiles("tiles/", tile_size=512, progress=False).tiles)
        4
        """
        from gdaltools.cog.options import CogOptions
        from gdaltools.errors import InvalidParameter
        from gdaltools.xr.tiles import array_tiles

        try:
            cog_options = CogOptions(profile=profile, **options)
        except TypeError as error:
            raise InvalidParameter(f"to_tiles: {error}") from error
        return array_tiles(
            self._raster(),
            dst,
            tile_size=tile_size,
            overlap=overlap,
            stem=stem,
            options=cog_options,
            overwrite=overwrite,
            progress=progress,
        )


@xarray.register_dataarray_accessor("gt")  # type: ignore[no-untyped-call]
class GdaltoolsAccessor(_Accessor):
    """gdaltools' methods of a DataArray."""

    def __init__(self, array: xarray.DataArray) -> None:
        self._array = array

    def _raster(self) -> xarray.DataArray:
        return self._array

    def to_dataset(self) -> xarray.Dataset:
        """One variable for each band, under the band's name.

        >>> ds = gt.open("scene.tif", masked=True).gt.to_dataset()
        >>> ndvi = (ds.NIR - ds.Red) / (ds.NIR + ds.Red)

        Raises
        ------
        UnsupportedRaster
            The array has no dimension ``band``.
        """
        from gdaltools.raster.bands import bands_apart

        return bands_apart(self._array)


@xarray.register_dataset_accessor("gt")  # type: ignore[no-untyped-call]
class GdaltoolsDatasetAccessor(_Accessor):
    """gdaltools' methods of a Dataset whose variables are bands."""

    def __init__(self, dataset: xarray.Dataset) -> None:
        self._dataset = dataset

    def _raster(self) -> xarray.DataArray:
        from gdaltools.raster.bands import bands_together

        return bands_together(self._dataset)
