"""Azure Blob Storage behind `gdaltools.storage`; nothing else imports from here, nor anything of Azure."""
