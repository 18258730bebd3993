"""Cloud Optimized GeoTIFFs: how they are encoded, made and checked."""
