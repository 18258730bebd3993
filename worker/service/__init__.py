"""The worker put together: backing services, listeners and housekeeping, drained in order at the end."""
