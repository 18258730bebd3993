"""Check a method's output against the request: its structure, its pixels, its metadata."""
