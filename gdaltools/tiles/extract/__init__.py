"""Tiles cut or warped out of a raster in one pass: each is complete or absent, and a later run resumes."""
