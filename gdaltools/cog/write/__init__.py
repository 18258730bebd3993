"""Write a COG from its plan: the graph of tasks, the order of blocks, and the checks before publication."""
