"""How values and progress look in a terminal and a notebook; works on plain data and knows no raster."""
