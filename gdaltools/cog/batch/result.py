"""The result of `create_cogs`: the outcome of every file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

from gdaltools.display import html
from gdaltools.display.shown import Shown
from gdaltools.raster.picture import file_name
from gdaltools.runtime.text import megabytes


class BatchedCog(BaseModel):
    """A COG that exists at its target.

    Attributes
    ----------
    source_bytes, size_bytes : int
        The size of the source and of the COG in storage.
    from_stored_blocks : bool
        Whether the full resolution consists of the source's stored blocks, copied unchanged.
    seconds : float
        The time that the COG took; 0 if it was skipped.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    location: str
    source_bytes: int
    size_bytes: int
    from_stored_blocks: bool = False
    seconds: float = 0.0

    @property
    def lifted(self) -> bool:
        """Deprecated: `from_stored_blocks`."""
        warnings.warn("lifted is now from_stored_blocks", DeprecationWarning, stacklevel=2)
        return self.from_stored_blocks


class FailedCog(BaseModel):
    """A file for which no COG was written: the error's type and text, and whether a retry may help."""

    model_config = ConfigDict(frozen=True)

    source: str
    location: str
    error_type: str
    error: str
    retryable: bool


class CogsResult(Shown, BaseModel):
    """The outcome of every file; true if no file failed.

    Attributes
    ----------
    folder : str
        The folder or prefix of the COGs.
    made : tuple of BatchedCog
        COGs that this run encoded.
    copied : tuple of BatchedCog
        COGs that were copied byte by byte, because the source already was the requested COG.
    skipped : tuple of BatchedCog
        COGs that were already complete, from the same source and with the same parameters.
    failed : tuple of FailedCog
        All other files.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    made: tuple[BatchedCog, ...]
    copied: tuple[BatchedCog, ...]
    skipped: tuple[BatchedCog, ...]
    failed: tuple[FailedCog, ...]
    seconds: float

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def size_bytes(self) -> int:
        """The total size of the COGs, including those that were skipped."""
        return sum(cog.size_bytes for cog in (*self.made, *self.copied, *self.skipped))

    def __str__(self) -> str:
        rows = self._rows()
        head = f"COGs in {self.folder}: {rows['files']}\n{rows['size']}; {rows['read']}"
        return "\n".join([head, *map(_failure, self.failed)])

    def _rows(self) -> dict[str, str]:
        from_stored_blocks = sum(cog.from_stored_blocks for cog in self.made)
        parts = [
            f"{len(self.made)} made"
            + (f" ({from_stored_blocks} of them from stored blocks)" if from_stored_blocks else ""),
            f"{len(self.copied)} copied" if self.copied else "",
            f"{len(self.skipped)} skipped, as they were whole already" if self.skipped else "",
            f"{len(self.failed)} failed",
        ]
        read = sum(cog.source_bytes for cog in (*self.made, *self.copied))
        return {
            "files": ", ".join(part for part in parts if part),
            "size": f"{self.size_bytes / 1e6:,.1f} MB in all",
            "read": f"{read / 1e6:,.1f} MB of sources read in {self.seconds:.1f} s",
        }

    def _about(self) -> str:
        return self.folder

    def _parts(self) -> Iterable[html.Html]:
        if self.failed:
            rows = (
                (file_name(each.source), each.error_type, html.toned(each.error, "bad"))
                for each in self.failed
            )
            yield html.table(("failed", "error", "what it says"), rows)
        whole = (*self.made, *self.copied, *self.skipped)
        made = (
            (file_name(cog.location), megabytes(cog.size_bytes), f"{cog.size_bytes / cog.source_bytes:.0%}")
            for cog in whole[: html.MOST_ROWS]
            if cog.source_bytes
        )
        yield html.details(
            f"{len(whole)} COGs", html.table(("COG", "size", "of the source"), made, count=len(whole))
        )


def _failure(failed: FailedCog) -> str:
    where = "" if failed.source in failed.error else f"{failed.source}: "
    return f"  {where}{failed.error} ({failed.error_type})"
