"""COGs of many rasters: a shared memory budget, resumable runs, and no bad file stops the others."""
