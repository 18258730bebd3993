"""The rasters that are compared on, made from a seed."""
