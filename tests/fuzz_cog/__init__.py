"""COGs of damaged rasters with random options: always a typed error or a correct file."""
