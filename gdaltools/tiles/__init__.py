"""Tiling schemes and the tiles that they describe: exact overlaps, no gaps, no slivers."""
