"""Tiling schemes, and the tiles they describe: exact overlaps, no gaps, no slivers."""
