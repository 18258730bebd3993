"""Cloud Optimized GeoTIFFs: planned before the first pixel, written in one pass, valid or absent."""
