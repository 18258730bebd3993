"""The assembled worker: start backing services, listeners and housekeeping, and stop them in order."""
