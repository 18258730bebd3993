"""How to call each library for the same output."""
