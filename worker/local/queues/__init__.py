"""Queues with peek-lock, expiry and dead letters, in memory or in a file that survives the process."""
