"""The worker's deployment: its container image, and its resources in Azure."""
