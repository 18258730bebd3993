"""Find rasters that need no encoding: those that already are the requested COG or store the same blocks.

Everything that decides how the bytes of a block are decoded must equal what GDAL would write for the COG:
byte and bit order, codec, predictor, block size, interleave, sample format and photometric interpretation.
If anything differs, or the file is not understood, the raster is encoded again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.cog.format.structure import check_structure, images
from gdaltools.cog.format.template import template
from gdaltools.cog.options import CogOptions
from gdaltools.cog.pieces.copied_blocks import BlockTable, CopiedSource
from gdaltools.cog.plan import CogPlan
from gdaltools.display.progress import Progress
from gdaltools.errors import CorruptRaster, GdalToolsError, StorageError, UnsupportedRaster
from gdaltools.raster import tiff
from gdaltools.raster.dataset import open_dataset, reading
from gdaltools.raster.pixels.source import RasterSource
from gdaltools.raster.tiff import Ifd, TiffLayout, read_layout
from gdaltools.storage import BlobTraits, Location

# TIFF's numbers of each codec (TIFF 6.0 §3; 32946 is the old number of DEFLATE, which libtiff decodes as 8).
# LERC and WEBP are left out: a file does not record their error limit or quality.
_COMPRESSIONS = {"NONE": {1}, "LZW": {5}, "JPEG": {7}, "DEFLATE": {8, 32946}, "ZSTD": {50000}}
# The tags that decide how a block is decoded, with TIFF 6.0's defaults for absent tags.
_DECIDING: dict[int, tuple[int, ...] | None] = {
    tiff.BITS_PER_SAMPLE: (1,),
    tiff.PHOTOMETRIC: None,
    tiff.FILL_ORDER: (1,),
    tiff.SAMPLES_PER_PIXEL: (1,),
    tiff.PLANAR_CONFIGURATION: (1,),
    tiff.PREDICTOR: (1,),
    tiff.SAMPLE_FORMAT: (1,),
    tiff.YCBCR_SUBSAMPLING: None,
    tiff.REFERENCE_BLACK_WHITE: None,
}
_TAGS = frozenset({*_DECIDING, tiff.JPEG_TABLES})

_SLACK_BYTES = 1 << 16
_BLOCKS_AT_ONCE = 8
_COPY_BYTES = 8 << 20

_Values = dict[int, tuple[int, ...] | bytes]


def with_reuse(plan: CogPlan, options: CogOptions) -> CogPlan:
    """Return the plan with what can be copied from the source: the file, its stored blocks, or nothing.

    Raises
    ------
    StorageError
        Storage does not answer.
    """
    source = plan.source
    effort = options.level is not None or options.size_tolerance is not None
    if not isinstance(source, RasterSource) or plan.decode_first or effort:
        return plan
    with storage.opening(source.location) as stream:
        try:
            return _with_stored_blocks(plan, options, source, stream)
        except (CorruptRaster, UnsupportedRaster):
            return plan  # GDAL reads more files than `read_layout` understands


def _with_stored_blocks(
    plan: CogPlan, options: CogOptions, source: RasterSource, stream: IO[bytes]
) -> CogPlan:
    layout = read_layout(stream, name=source.name)
    main, overviews = images(layout)
    if not layout.little_endian or not _as_planned(plan, main):
        return plan
    values = tiff.read_values(stream, main, _TAGS, name=source.name)
    if not _decoded_as(plan, values) or not _quality_suffices(plan, source):
        return plan
    sizes = tuple((overview.width, overview.height) for overview in overviews)
    alike = all(
        _as_planned(plan, overview) and tiff.read_values(stream, overview, _TAGS, name=source.name) == values
        for overview in overviews
    )
    if alike and _is_whole(plan, options, layout, sizes, stream):
        return replace(plan, copies=True)
    if plan.kept and not (alike and sizes == plan.levels[1:]):
        return plan
    copied = (main, *overviews) if plan.kept else (main,)
    tables = values.get(tiff.JPEG_TABLES)
    return replace(
        plan,
        source=CopiedSource(
            source,
            plan.profile.blocksize,
            tuple(_table(plan, ifd) for ifd in copied),
            tables if isinstance(tables, bytes) else None,
        ),
    )


def copy_checked(
    source: Location,
    target: Location,
    size_bytes: int,
    *,
    traits: BlobTraits,
    overwrite: bool,
    progress: Callable[[Progress], None],
) -> None:
    """Copy a COG byte by byte; the copy appears at `target` only after all its blocks have been decoded.

    Parameters
    ----------
    size_bytes : int
        The size of the source when it was checked.
    traits : BlobTraits
        Content type and access tier of the copy, if it is a blob.

    Raises
    ------
    CorruptRaster
        A block cannot be decoded. It may be an overview's, which can be built again.
    StorageError, TargetExists
        The source cannot be read, the target cannot be written, or the source changed during the copy.
    """
    with storage.writing(target, overwrite=overwrite, traits=traits) as path:
        try:
            with storage.opening(source) as stream, path.open("wb") as copy:
                while part := stream.read(_COPY_BYTES):
                    copy.write(part)
                    progress(Progress("copy", copy.tell(), max(size_bytes, copy.tell()), "bytes"))
        except GdalToolsError:
            raise
        except OSError as error:
            raise StorageError(f"{source} could not be copied to {target}: {error}") from error
        if path.stat().st_size != size_bytes:
            raise StorageError(f"{source} changed while it was copied: try again")
        check_pixels(path, source)


def check_pixels(path: Path, source: Location) -> None:
    """Decode every block of the copy of a COG at `path`; errors name `source`.

    Raises
    ------
    CorruptRaster
        A block cannot be decoded.
    """
    copy = storage.locate(path)
    with open_dataset(copy, verify=False) as dataset:
        levels = [None, *range(len(dataset.overviews(1)))]
    for level in levels:
        with open_dataset(copy, verify=False, overview_level=level) as dataset:
            masked = MaskFlags.per_dataset in dataset.mask_flag_enums[0]
            rows, cols = dataset.block_shapes[0]
            for top, left in product(
                range(0, dataset.height, rows), range(0, dataset.width, cols * _BLOCKS_AT_ONCE)
            ):
                window = Window(
                    left,
                    top,
                    min(cols * _BLOCKS_AT_ONCE, dataset.width - left),
                    min(rows, dataset.height - top),
                )
                with reading(source, window):
                    dataset.read(window=window)
                    if masked:
                        dataset.dataset_mask(window=window)


def _as_planned(plan: CogPlan, ifd: Ifd) -> bool:
    """Return whether an image's blocks have the COG's block size, codec and interleave."""
    size = plan.profile.blocksize
    apart = ifd.planar == 2 and ifd.samples > 1
    if (ifd.block_width, ifd.block_height) != (size, size) or not ifd.tiled:
        return False
    compressions = _COMPRESSIONS.get(plan.profile.compression, set())
    if ifd.compression not in compressions or apart != (plan.planes > 1) or ifd.samples != plan.facts.count:
        return False
    bits = plan.facts.sample_bits or plan.facts.numpy_dtype.itemsize * 8
    decoded = size * size * ifd.samples // plan.planes * bits // 8
    stored = ifd.counts[ifd.counts > 0]
    if plan.profile.compression == "NONE":
        return bool((stored == decoded).all())
    # No codec makes blocks much larger than their pixels; a file with such sizes would exhaust the memory.
    return bool((stored <= 2 * decoded + _SLACK_BYTES).all())


def _decoded_as(plan: CogPlan, values: _Values) -> bool:
    """Return whether the tags that decide how a block is decoded equal those of the COG."""
    written = {
        tag.code: tag.data if tag.kind not in tiff.INTEGER_TYPES else _integers(tag.data, tag.kind)
        for tag in template(plan.facts, plan.encoding).main
    }
    count = plan.facts.count
    return all(
        _meant(values.get(tag, default), count) == _meant(written.get(tag, default), count)
        for tag, default in _DECIDING.items()
        if not (tag == tiff.PLANAR_CONFIGURATION and count == 1)
    )


def _integers(data: bytes, kind: int) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, "<" + tiff.INTEGER_TYPES[kind]).tolist())


def _meant(value: tuple[int, ...] | bytes | None, count: int) -> tuple[int, ...] | bytes | None:
    """Return a tag's values for each of `count` samples, repeating a single value."""
    return value * count if isinstance(value, tuple) and len(value) == 1 else value


def _quality_suffices(plan: CogPlan, source: RasterSource) -> bool:
    """Return whether a JPEG has at most the requested quality; encoding it again could only lose quality."""
    if plan.profile.compression != "JPEG":
        return True
    with open_dataset(source.location, verify=False) as dataset:
        found = dataset.tags(ns="IMAGE_STRUCTURE").get("JPEG_QUALITY", "")
    return found.isdigit() and int(found) <= (plan.profile.quality or 0)


def _is_whole(
    plan: CogPlan,
    options: CogOptions,
    layout: TiffLayout,
    sizes: tuple[tuple[int, int], ...],
    stream: IO[bytes],
) -> bool:
    """Return whether the file's images, masks and layout are those of the requested COG."""
    if (
        options.input_crs is not None
        or plan.sparse
        or plan.statistics
        or (sizes and options.overview_resampling is not None)
    ):
        return False
    size = plan.profile.blocksize
    small = max(sizes[-1] if sizes else plan.levels[0]) <= size
    if not (sizes == () if options.overviews == "none" else small):
        return False
    masks = sum(ifd.is_mask for ifd in layout.ifds)
    if masks != (1 + len(sizes) if plan.facts.masked else 0) or len(layout.ifds) != 1 + len(sizes) + masks:
        return False
    findings = check_structure(layout, stream)
    return not findings.errors and not findings.warnings


def _table(plan: CogPlan, ifd: Ifd) -> BlockTable:
    size = plan.profile.blocksize
    shape = (plan.planes, -(-ifd.height // size), -(-ifd.width // size))
    return BlockTable(ifd.offsets.reshape(shape), ifd.counts.reshape(shape))
