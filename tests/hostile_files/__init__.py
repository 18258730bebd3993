"""Damaged rasters read by a process of their own: a typed error or pixels, soon, and nothing else, ever."""
