"""Whether a method's output is what was asked for: its structure, its pixels, its metadata."""
