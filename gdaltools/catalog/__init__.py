"""Catalogues of COGs: a mosaic or a STAC collection names every raster and appears only when complete."""
