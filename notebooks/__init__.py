"""Notebooks that run from top to bottom, and the module that runs them."""
