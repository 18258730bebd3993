"""xarray's side of gdaltools: rasters opened, warped and written as labelled lazy arrays."""
