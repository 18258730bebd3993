"""The built image, run with real services: python -m tests.image."""
