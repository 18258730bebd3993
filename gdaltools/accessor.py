"""``da.gt``: what gdaltools does with an xarray.DataArray, where one is at hand.

>>> import gdaltools.accessor
>>> result = da.gt.to_cog("ndvi.tif")  # doctest: +SKIP

It is registered when this module is imported: by `gdaltools.open`, and by ``import gdaltools`` after xarray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray

if TYPE_CHECKING:
    from gdaltools.cog.result import CogResult
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
