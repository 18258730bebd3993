"""A worker in Azure: python -m deploy.azure CONFIG.toml [--what-if]."""
