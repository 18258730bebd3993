"""Damaged rasters read in a child process: always a typed error or pixels, within the time limit."""
