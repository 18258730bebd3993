"""The worker's logs, metrics and traces: logs and traces name their task, and none contains a secret."""
