"""The unattended worker: one task's life, around the functions of gdaltools."""
