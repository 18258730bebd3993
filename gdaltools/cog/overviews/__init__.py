"""Overview levels: each pixel has the value that GDAL computes, in strips of bounded memory."""
