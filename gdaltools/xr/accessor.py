"""``da.gt`` and ``ds.gt``: gdaltools' functions as methods of a DataArray or a Dataset.

>>> import gdaltools.xr.accessor
>>> da.gt.to_cog("cog.tif").tier
'analysis'
>>> len(ds.gt.to_tiles("tiles/", tile_size=512).tiles)
4

Importing this module registers them. `gdaltools.open` imports it, as does ``import gdaltools`` after xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import xarray

from gdaltools.cog.options import CogKeywords, CogOptions, spelled_out

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from gdaltools.cog.result import CogResult
    from gdaltools.display.progress import ProgressOption
    from gdaltools.raster.info import RasterInfo
    from gdaltools.storage import Location, StrPath
    from gdaltools.tiles.extract.result import ExtractionResult
    from gdaltools.tiles.scheme import TilingScheme


class _Accessor:
    """gdaltools' methods for an xarray object that is a raster."""

    def _raster(self) -> xarray.DataArray:
        """Return the pixels as one array, (band, y, x) or (y, x)."""
        raise NotImplementedError

    def inspect(self) -> RasterInfo:
        """Return the array's properties as a raster: size, CRS, transform, bands, nodata, chunks.

        Nothing is computed.

        Raises
        ------
        UnsupportedRaster
            The array is not a raster: it has other dimensions, or a dtype that TIFF cannot hold.

        Examples
        --------
        >>> da.gt.inspect().shape
        (3, 600, 800)
        """
        from gdaltools.xr.info import array_info

        return array_info(self._raster())

    def tiles(self, tile_size: int | None = None, overlap: int = 0) -> TilingScheme:
        """Return the scheme of the tiles that `to_tiles` would write; nothing is computed.

        Parameters
        ----------
        tile_size : int, optional
            Side of a tile in pixels, a multiple of 16; by default as in `to_tiles`.
        overlap : int
            Pixels that neighbouring tiles share.

        Raises
        ------
        UnsupportedRaster, InvalidParameter
            The array is not a raster or has no CRS; the sizes contradict each other.

        Examples
        --------
        >>> ds.gt.tiles(256, 32).rows
        3
        """
        from gdaltools.xr.info import array_scheme

        return array_scheme(self._raster(), tile_size, overlap)

    @spelled_out(CogKeywords)
    def to_cog(
        self,
        dst: StrPath | Location,
        profile: str = "analysis",
        *,
        overwrite: bool = False,
        progress: ProgressOption = "auto",
        compute: bool = True,
        **options: Unpack[CogKeywords],
    ) -> CogResult | Delayed:
        """Write the array as a COG, as `gdaltools.create_cog` does.

        dask arrays are computed piece by piece, while the pieces are written. The variables of a Dataset
        become bands with their names. Floating-point numbers without a nodata value get NaN as their nodata,
        because that is how xarray marks missing data.

        Parameters
        ----------
        profile : str
            What the COG is for: see `CogOptions`.
        **options : CogKeywords
            How it is encoded: the other fields of `CogOptions`.
        overwrite, progress, compute
            As for `create_cog`.

        Raises
        ------
        InvalidParameter, UnsupportedRaster, TargetExists, StorageError
            As in `create_cog`.

        Examples
        --------
        >>> da.gt.to_cog("cog.tif", "fast", progress=False).band_count
        3
        """
        from gdaltools.cog.create import create_cog

        return create_cog(
            self._raster(),
            dst,
            profile,
            overwrite=overwrite,
            progress=progress,
            compute=compute,
            **options,
        )

    @spelled_out(CogKeywords)
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
        **options: Unpack[CogKeywords],
    ) -> ExtractionResult:
        """Write the array as one COG per tile, as ``{stem}_tile_{row}_{col}.tif`` below `dst`.

        dask arrays are computed piece by piece. By default tiles consist of whole chunks, so that each chunk
        is computed once.

        Parameters
        ----------
        profile : str
            What the COGs are for: see `CogOptions`.
        **options : CogKeywords
            How they are encoded: the other fields of `CogOptions`.
        tile_size : int, optional
            Side of a tile in pixels, a multiple of 16; by default about 450 MB uncompressed.
        overlap : int
            Pixels that neighbouring tiles share.
        stem : str, optional
            First part of the file names; by default the array's name, or "array".

        Raises
        ------
        InvalidParameter, UnsupportedRaster, TargetExists, StorageError
            As in `create_cog`.

        Examples
        --------
        >>> len(ds.gt.to_tiles("tiles/", tile_size=512, progress=False).tiles)
        4
        """
        from gdaltools.errors import InvalidParameter
        from gdaltools.xr.tiles import array_tiles

        if "resume" in options:
            raise InvalidParameter(
                "an array has no version by which a run could be resumed: write its tiles again with "
                "overwrite=True, or use extract_tiles on a file"
            )
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
        """Return a Dataset with one variable per band, named like the band.

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
