"""COGs of damaged rasters with random options: a typed error or a right file, and nothing else, ever."""
