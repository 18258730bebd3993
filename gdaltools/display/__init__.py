"""What a notebook shows of gdaltools' values: cards of HTML, small pictures, and the lines of a terminal."""
