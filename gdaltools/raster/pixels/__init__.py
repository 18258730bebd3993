"""Pixels of a raster, window by window: every source returns the same values, however it reads them."""
