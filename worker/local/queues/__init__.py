"""Queues in memory or in a file: peek-lock, expiry, dead letters, and nothing lost when the process dies."""
