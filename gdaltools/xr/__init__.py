"""gdaltools for xarray: rasters opened, warped and written as labelled lazy arrays."""
