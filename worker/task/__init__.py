"""One task's life: claimed, run in a child process within its limits, completed or failed exactly once."""
