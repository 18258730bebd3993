"""Encode blocks of pixels as TIFF segments, exactly as libtiff decodes them."""
