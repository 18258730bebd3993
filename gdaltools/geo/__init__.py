"""Coordinate reference systems, grids and windows: pure arithmetic on where pixels lie on Earth."""
