"""Azure Blob Storage for `gdaltools.storage`; no other part of gdaltools imports it or Azure's libraries."""
