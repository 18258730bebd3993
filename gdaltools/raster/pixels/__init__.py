"""Pixels of a raster, window by window: each source reads the same values, whichever way it takes."""
