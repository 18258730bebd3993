"""From plan to file: the graph of tasks, the order of blocks, and the checks before a COG is published."""
