"""The built image, run beside real services: python -m tests.image."""
