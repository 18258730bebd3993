"""Whole rasters through gdaltools, step by step in child processes, judged by GDAL, PROJ and numpy."""
