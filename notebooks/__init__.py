"""Notebooks that run from top to bottom, and what runs them."""
