"""Blocks of pixels become the bytes of TIFF segments, exactly as libtiff decodes them."""
