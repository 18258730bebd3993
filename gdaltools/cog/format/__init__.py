"""The bytes of a COG: header, IFDs and ghost area, written and checked as GDAL writes and reads them."""
