"""Overview levels: each pixel is computed as GDAL computes it, in strips of bounded memory."""
