"""Values that can be looked at on a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gdaltools.display.shown import Shown


class OnMap(Shown):
    """What a value puts on a map, said once by a subclass."""

    def _on_map(self) -> Mapping[str, Any]:
        """Arguments of `gdaltools.raster.maps.explore`."""
        raise NotImplementedError

    def explore(self) -> Any:
        """An interactive map of its rasters, for a notebook; ipyleaflet's Map.

        Raises
        ------
        MissingExtra
            ipyleaflet is not installed (``pip install 'gdaltools[map]'``).

        Examples
        --------
        >>> len(gt.inspect("scene.tif").explore().layers)
        2
        """
        from gdaltools.raster.maps import explore

        return explore(**self._on_map())
