"""A comparison's results as tables and pictures."""
