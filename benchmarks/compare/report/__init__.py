"""Present a comparison's results as tables and pictures."""
