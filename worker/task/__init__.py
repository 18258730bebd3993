"""The life of one task: claim it, run it in a child process with limits, record its outcome exactly once."""
