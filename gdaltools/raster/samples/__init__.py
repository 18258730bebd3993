"""Real imagery to try things on, which is installed with the package: nothing comes from the internet.

>>> gt.inspect(relief("relief.tif", width=256)).shape
(3, 128, 256)
"""

from __future__ import annotations

from gdaltools.raster.samples.natural_earth import relief

__all__ = ["relief"]
