"""The bytes of a COG: header, IFDs and ghost area, written and checked by GDAL's rules."""
