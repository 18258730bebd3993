"""Reprojection of pixels: the same values as GDAL's exact warp, whichever window is requested."""
