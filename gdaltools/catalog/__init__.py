"""Catalogues of COGs: a mosaic or STAC collection names every raster and appears only when complete."""
