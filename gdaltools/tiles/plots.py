"""The tiles of a scheme as a small drawing: where they lie in the grid, and where they overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gdaltools.display.html import Html, html

if TYPE_CHECKING:
    from gdaltools.tiles.scheme import TilingScheme

# Longer side of the drawing, pixels of a screen.
_SIDE = 260
# Of more tiles nobody could tell one from the other.
_MOST_TILES = 600
# Tiles at least so wide on the screen have their row and column written in them.
_NAMED = 34


def tile_map(scheme: TilingScheme) -> Html:
    """The tiles as an SVG picture; nothing of a scheme of very many."""
    if len(scheme) > _MOST_TILES:
        return Html("")
    grid = scheme.grid
    scale = _SIDE / max(grid.width, grid.height)
    width, height = max(1.0, grid.width * scale), max(1.0, grid.height * scale)
    shapes = []
    for row in range(scheme.rows):
        for col in range(scheme.cols):
            window = scheme.window(row, col)
            x, y = window.col_off * scale, window.row_off * scale
            across, down = window.width * scale, window.height * scale
            name = f"tile_{row}_{col}"
            shapes.append(
                f"<rect x='{x:.1f}' y='{y:.1f}' width='{across:.1f}' height='{down:.1f}'>"
                f"<title>{name}: {window.width} x {window.height}</title></rect>"
            )
            if across >= _NAMED and down >= _NAMED / 2:
                shapes.append(
                    f"<text x='{x + across / 2:.1f}' y='{y + down / 2 + 4:.1f}' text-anchor='middle' "
                    f"font-size='10' fill='currentColor'>{row}_{col}</text>"
                )
    label = html(f"{len(scheme)} tiles")
    return Html(
        f"<svg role='img' aria-label='{label}' width='{width + 2:.0f}' height='{height + 2:.0f}' "
        f"viewBox='-1 -1 {width + 2:.1f} {height + 2:.1f}'>{''.join(shapes)}</svg>"
    )
