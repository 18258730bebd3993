"""COGs of many rasters: a shared memory budget, resumable runs, and one bad file never stops the rest."""
