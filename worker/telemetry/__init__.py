"""What a worker says of itself: logs, metrics and traces, each with its task and none with a secret."""
