"""Tiles cut or warped out of a raster in one pass: each appears when it is whole, and a later run resumes."""
