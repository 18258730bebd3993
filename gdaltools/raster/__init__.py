"""Rasters as files: the one safe way to open them, and everything that their headers state."""
