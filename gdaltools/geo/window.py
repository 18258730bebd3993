"""Windows of a grid of pixels, and ranges of its rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from rasterio.windows import Window


@dataclass(frozen=True)
class Span:
    """A range of rows or columns: `start` included, `stop` not."""

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
        """How many there are."""
        return self.width * self.height

    @property
    def rasterio(self) -> Window:
        """As rasterio takes it."""
        return Window(self.col_off, self.row_off, self.width, self.height)
