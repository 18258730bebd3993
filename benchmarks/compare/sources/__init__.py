"""The source rasters of a comparison, generated from a seed."""
