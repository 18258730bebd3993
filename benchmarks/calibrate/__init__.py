"""Measure a grid of operations on this machine, fit a cost model, and derive the routing thresholds."""
