"""Check whether a file is a valid COG; every error says what is wrong in terms that a user can act on.

Two validators run: rio-cogeo's ``cog_validate``, and `gdaltools.cog.format.structure`, which checks GDAL's
rules byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict
from rasterio.io import DatasetReader

from gdaltools import storage
from gdaltools.cog.format.structure import Findings, check_structure, images, label
from gdaltools.display import html
from gdaltools.display.shown import Shown
from gdaltools.errors import CorruptRaster
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import file_name
from gdaltools.raster.tiff import COMPRESSION_NAMES, Ifd, TiffLayout, read_layout
from gdaltools.runtime.text import megabytes
from gdaltools.storage import Location, StrPath


class CogImage(BaseModel):
    """One image of the file: the full resolution, an overview, or the mask of either."""

    model_config = ConfigDict(frozen=True)

    name: str
    width: int
    height: int
    tiled: bool
    block: tuple[int, int]
    compression: str
    ifd_offset: int
    first_data_offset: int
    blocks: int
    empty_blocks: int
    stored_bytes: int


class CogReport(Shown, BaseModel):
    """The result of `validate_cog`; it is true if the file is valid.

    Attributes
    ----------
    valid : bool
        Whether the file has no errors and, with ``strict=True``, no warnings.
    errors : tuple of str
        The rules that the file breaks.
    warnings : tuple of str
        What is allowed but makes reading slower.
    images : tuple of CogImage
        The images in the order of their IFDs.
    overview_levels : tuple of int
        The decimation factors of the overviews.
    ghost : dict of str to str
        GDAL's structural metadata (the ghost area); empty if the file has none.
    """

    model_config = ConfigDict(frozen=True)

    location: str
    valid: bool
    strict: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    driver: str
    size_bytes: int
    bigtiff: bool
    compression: str
    blocksize: tuple[int, int] | None
    overview_levels: tuple[int, ...]
    images: tuple[CogImage, ...]
    ghost: dict[str, str]

    def __bool__(self) -> bool:
        return self.valid

    def __str__(self) -> str:
        lines = [f"{self.location} is {'a valid' if self.valid else 'not a valid'} COG"]
        lines += [f"  error: {text}" for text in self.errors]
        lines += [f"  warning: {text}" for text in self.warnings]
        for image in self.images:
            blocks = f"{'tiles' if image.tiled else 'strips'} of {image.block[0]} x {image.block[1]}"
            empty = f", {image.empty_blocks} empty" if image.empty_blocks else ""
            lines.append(
                f"  {image.name}: {image.width} x {image.height}, {image.compression}, "
                f"{image.blocks} {blocks}{empty}, IFD at {image.ifd_offset}, "
                f"data from {image.first_data_offset}"
            )
        lines.append(f"  ghost area: {', '.join(self.ghost) or 'none'}")
        return "\n".join(lines)

    def _rows(self) -> dict[str, str]:
        return {
            "location": self.location,
            "file": f"{self.driver}, {megabytes(self.size_bytes)}" + (", BigTIFF" if self.bigtiff else ""),
            "encoding": self.compression or "none",
            "overviews": ", ".join(map(str, self.overview_levels)) or "none",
            "ghost area": ", ".join(self.ghost) or "none",
        }

    def _about(self) -> html.Html:
        verdict = html.toned("✓ valid COG", "good") if self.valid else html.toned("✗ not a valid COG", "bad")
        return html.joined((verdict, f" {file_name(self.location)}"))

    def _parts(self) -> Iterable[html.Html]:
        found = [(html.toned("error", "bad"), text) for text in self.errors]
        found += [(html.toned("warning", "warn"), text) for text in self.warnings]
        if found:
            yield html.table(("", "what was found"), found)
        most = max((image.stored_bytes for image in self.images), default=0) or 1
        rows = (
            (
                image.name,
                f"{image.width:,} x {image.height:,}",
                f"{image.blocks:,} of {image.block[0]} x {image.block[1]}",
                megabytes(image.stored_bytes),
                html.bar(image.stored_bytes / most),
            )
            for image in self.images
        )
        yield html.table(("image", "pixels", "blocks", "stored", ""), rows)


def validate_cog(src: StrPath | Location, *, strict: bool = True) -> CogReport:
    """Check whether the file at `src` is laid out as a COG, without decoding its pixels.

    A raster that is not a TIFF is reported as invalid.

    Parameters
    ----------
    strict : bool
        Let a warning make the file invalid.

    Raises
    ------
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        The file is missing, is not a raster, or is too damaged for its layout to be read.

    Examples
    --------
    >>> validate_cog("scene.tif").valid
    False
    """
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        if dataset.driver not in ("GTiff", "COG"):
            return _not_a_tiff(dataset, location, strict)
        levels = tuple(dataset.overviews(1))
        with storage.opening(location) as stream:
            layout = read_layout(stream, name=str(location))
            findings = check_structure(layout, stream)
        errors, warnings = _rio_cogeo(location)
        errors = _without_mistakes(errors, images(layout)[0])
    # Both validators see most faults: rio-cogeo's errors are used only if ours found none.
    if not findings.errors:
        findings = Findings(errors, findings.warnings or warnings)
    return _report(layout, location, strict, findings, levels)


def _rio_cogeo(location: Location) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from rasterio.errors import RasterioError
    from rio_cogeo.cogeo import cog_validate

    try:
        with storage.gdal_name(location) as name:
            _, errors, warnings = cog_validate(name, strict=True, quiet=True)
    except (RasterioError, TypeError, ValueError, IndexError) as error:
        raise CorruptRaster(
            f"{location} has images that cannot be opened: {error}; upload it again"
        ) from error
    return tuple(errors), tuple(warnings)


def _without_mistakes(errors: tuple[str, ...], main: Ifd) -> tuple[str, ...]:
    """Return `errors` without those that rio-cogeo 7 reports by mistake.

    It infers tiling and decimation from widths alone, and is wrong where an image is one block or one pixel
    wide: a single column of blocks is tiled, and its overviews halve the height. The IFDs say which images
    are tiled, and `check_structure` reports those that are not.
    """
    return tuple(
        text
        for text in errors
        if not text.endswith("is not tiled")
        and not (main.width == 1 and text.startswith("Invalid Decimation 1 "))
    )


def _report(
    layout: TiffLayout,
    location: Location,
    strict: bool,
    findings: Findings,
    levels: tuple[int, ...],
) -> CogReport:
    main, _ = images(layout)
    return CogReport(
        location=str(location),
        valid=not findings.errors and not (strict and findings.warnings),
        strict=strict,
        errors=findings.errors,
        warnings=findings.warnings,
        driver="GTiff",
        size_bytes=layout.size,
        bigtiff=layout.bigtiff,
        compression=COMPRESSION_NAMES.get(main.compression, str(main.compression)),
        blocksize=(main.block_width, main.block_height) if main.tiled else None,
        overview_levels=levels,
        images=tuple(_image(layout, ifd) for ifd in layout.ifds),
        ghost=layout.ghost,
    )


def _image(layout: TiffLayout, ifd: Ifd) -> CogImage:
    return CogImage(
        name=label(layout, ifd),
        width=ifd.width,
        height=ifd.height,
        tiled=ifd.tiled,
        block=(ifd.block_width, ifd.block_height),
        compression=COMPRESSION_NAMES.get(ifd.compression, str(ifd.compression)),
        ifd_offset=ifd.position,
        first_data_offset=ifd.first_data,
        blocks=int(ifd.offsets.size),
        empty_blocks=int((ifd.offsets == 0).sum()),
        stored_bytes=int(ifd.counts.sum()),
    )


def _not_a_tiff(dataset: DatasetReader, location: Location, strict: bool) -> CogReport:
    return CogReport(
        location=str(location),
        valid=False,
        strict=strict,
        errors=(f"a {dataset.driver} file, not a GeoTIFF: convert it with create_cog",),
        warnings=(),
        driver=dataset.driver,
        size_bytes=storage.stat(location).size,
        bigtiff=False,
        compression="",
        blocksize=None,
        overview_levels=(),
        images=(),
        ghost={},
    )
