"""Deployment of a worker to Azure: ``python -m deploy.azure CONFIG.toml [--what-if]``."""
