"""Huge rasters into tiles and Cloud Optimized GeoTIFFs."""
