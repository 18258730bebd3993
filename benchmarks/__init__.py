"""How fast, in how much memory: gdaltools measured in processes of their own, beside its neighbours."""
