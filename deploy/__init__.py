"""How the worker comes into a container and into Azure."""
