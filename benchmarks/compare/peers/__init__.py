"""How each library is called for the same result."""
