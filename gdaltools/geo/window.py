"""Windows of a pixel grid, and ranges of its rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from rasterio.windows import Window


@dataclass(frozen=True)
class Span:
    """A range of rows or columns: `start` is included, `stop` is not."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class PixelWindow(BaseModel):
    """A window of the target grid, in pixels."""

    model_config = ConfigDict(frozen=True)

    col_off: int
    row_off: int
    width: int
    height: int

    @property
    def pixels(self) -> int:
        """The number of pixels in the window."""
        return self.width * self.height

    @property
    def rasterio(self) -> Window:
        """The window as rasterio's `Window`."""
        return Window(self.col_off, self.row_off, self.width, self.height)
