"""Measure the speed and memory of gdaltools, in separate processes, next to comparable libraries."""
