"""Check the bytes of a file against the rules of a COG's layout.

The rules are those of GDAL's own validator (``osgeo_utils.samples.validate_cloud_optimized_geotiff``, with
``--full-check=yes``) and of GDAL's COG driver page: the IFDs come first and in order, overviews get smaller
and are stored from small to large before the full resolution, blocks are stored row by row, and leader and
trailer bytes are as promised.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gdaltools.raster.tiff import Ifd, TiffLayout

# From GDAL's validator: only wider images must be tiled.
_UNTILED_WIDTH = 1024
_SMALL_SIDE = 512
# The most blocks per IFD whose leader and trailer are compared; if there are more, a regular sample of them.
_COMPARED_BLOCKS = 4096


@dataclass(frozen=True)
class Findings:
    """The rules that a file breaks (`errors`), and what is allowed but slows readers down (`warnings`)."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def check_structure(layout: TiffLayout, stream: IO[bytes] | None) -> Findings:
    """Return everything in `layout` that keeps the file from being a COG.

    `stream` holds the bytes of the file; without it the leaders and trailers of blocks are not checked.
    """
    main, overviews = images(layout)
    errors: list[str] = []
    warnings: list[str] = []
    errors += _tiling(main, overviews)
    if not overviews and max(main.width, main.height) > max(
        _SMALL_SIDE, main.block_width if main.tiled else 0, main.block_height if main.tiled else 0
    ):
        warnings.append(
            f"no overviews, though the image is {main.width} x {main.height}: zooming out reads all of it"
        )
    errors += _ifd_order(layout, main, overviews)
    errors += _overview_sizes(main, overviews)
    errors += _data_order(main, overviews)
    if layout.ghost:
        errors += _ghost_promises(layout, stream)
    return Findings(tuple(errors), tuple(warnings))


def images(layout: TiffLayout) -> tuple[Ifd, tuple[Ifd, ...]]:
    """Return the full resolution, and its overviews in the order of their IFDs, without masks."""
    main = layout.ifds[0]
    return main, tuple(ifd for ifd in layout.ifds[1:] if ifd.is_overview and not ifd.is_mask)


def label(layout: TiffLayout, ifd: Ifd) -> str:
    """Return the name of an image in reports."""
    _, overviews = images(layout)
    sizes = [(overview.width, overview.height) for overview in overviews]
    what = "full resolution"
    if ifd.is_overview:
        size = (ifd.width, ifd.height)
        what = f"overview {sizes.index(size)}" if size in sizes else f"overview {ifd.width} x {ifd.height}"
    return f"mask of {what}" if ifd.is_mask else what


def _tiling(main: Ifd, overviews: tuple[Ifd, ...]) -> list[str]:
    errors = []
    if not main.tiled and max(main.width, main.height) > _SMALL_SIDE:
        errors.append(
            f"not tiled: rows of {main.width} pixels are stored in strips; rewrite it with create_cog"
        )
    errors += [
        f"overview {number} ({overview.width} x {overview.height}) is not tiled"
        for number, overview in enumerate(overviews)
        if not overview.tiled and overview.width > _UNTILED_WIDTH
    ]
    return errors


def _ifd_order(layout: TiffLayout, main: Ifd, overviews: tuple[Ifd, ...]) -> list[str]:
    errors = []
    header = 16 if layout.bigtiff else 8
    if main.position not in (header, layout.ghost_end):
        errors.append(
            f"the main IFD is at byte {main.position} and should be at {layout.ghost_end}, right behind the "
            "header: the file was edited, or not written as a COG"
        )
    positions = [main.position] + [overview.position for overview in overviews]
    errors += [
        f"the IFD of overview {number} is at byte {after}, before the image of twice its size (byte {before})"
        for number, (before, after) in enumerate(pairwise(positions))
        if after < before
    ]
    first = min((ifd.first_data for ifd in layout.ifds if ifd.first_data), default=0)
    late = [ifd for ifd in layout.ifds if first and ifd.position > first]
    if late:
        errors.append(
            f"{len(late)} of {len(layout.ifds)} IFDs lie behind pixel data (the first at byte "
            f"{late[0].position}, data from byte {first}): a reader cannot get them in one request"
        )
    return errors


def _overview_sizes(main: Ifd, overviews: tuple[Ifd, ...]) -> list[str]:
    chain = (main, *overviews)
    return [
        f"overview {number} is {small.width} x {small.height}, not smaller than the {large.width} x "
        f"{large.height} before it"
        for number, (large, small) in enumerate(pairwise(chain))
        if small.width > large.width
        or small.height > large.height
        or (small.width, small.height) == (large.width, large.height)
    ]


def _data_order(main: Ifd, overviews: tuple[Ifd, ...]) -> list[str]:
    names = ["full resolution"] + [f"overview {number}" for number in range(len(overviews))]
    stored = [
        (name, ifd.first_data) for name, ifd in zip(names, (main, *overviews), strict=True) if ifd.first_data
    ]
    return [
        f"the pixels of {large} begin at byte {large_at}, before those of {small} (byte {small_at}): "
        "overviews must come first, the smallest in front"
        for (large, large_at), (small, small_at) in pairwise(stored)
        if large_at < small_at
    ]


def _ghost_promises(layout: TiffLayout, stream: IO[bytes] | None) -> list[str]:
    errors = []
    ghost = layout.ghost
    if ghost.get("KNOWN_INCOMPATIBLE_EDITION") == "YES":
        errors.append("edited after it was written as a COG (KNOWN_INCOMPATIBLE_EDITION=YES): rewrite it")
    for ifd in layout.ifds:
        name = label(layout, ifd)
        stored = ifd.offsets > 0
        offsets, counts = ifd.offsets[stored], ifd.counts[stored]
        if ghost.get("BLOCK_ORDER") == "ROW_MAJOR" and bool(np.any(offsets[1:] < offsets[:-1])):
            block = int(np.argmax(offsets[1:] < offsets[:-1])) + 1
            errors.append(
                f"{name}: block {block} lies before the block in front of it, though ROW_MAJOR is promised"
            )
        if stream is not None:
            errors += _edges(ghost, name, offsets, counts, layout.size, stream)
    if ghost.get("MASK_INTERLEAVED_WITH_IMAGERY") == "YES":
        errors += _masks_follow(layout)
    return errors


def _edges(
    ghost: dict[str, str],
    name: str,
    offsets: NDArray[np.uint64],
    counts: NDArray[np.uint64],
    size: int,
    stream: IO[bytes],
) -> list[str]:
    leader = ghost.get("BLOCK_LEADER") == "SIZE_AS_UINT4"
    trailer = ghost.get("BLOCK_TRAILER") == "LAST_4_BYTES_REPEATED"
    if not (leader or trailer) or not offsets.size:
        return []
    picked = np.unique(np.linspace(0, offsets.size - 1, min(offsets.size, _COMPARED_BLOCKS)).astype(int))
    for block in picked:
        offset, count = int(offsets[block]), int(counts[block])
        if leader:
            stream.seek(max(offset - 4, 0))
            found = int.from_bytes(stream.read(4), "little")
            if offset < 4 or found != count:
                return [f"{name}: block {block} has {count} bytes, but the 4 bytes before it say {found}"]
        if trailer and count >= 4:
            stream.seek(offset + count - 4)
            last = stream.read(8)
            if offset + count + 4 > size or last[:4] != last[4:]:
                return [f"{name}: the last 4 bytes of block {block} are not repeated behind it"]
    return []


def _masks_follow(layout: TiffLayout) -> list[str]:
    errors = []
    around = 4 * (("BLOCK_LEADER" in layout.ghost) + ("BLOCK_TRAILER" in layout.ghost))
    pictures = {(i.width, i.height): i for i in layout.ifds if not i.is_mask and i.planar == 1}
    for mask in (ifd for ifd in layout.ifds if ifd.is_mask):
        picture = pictures.get((mask.width, mask.height))
        if picture is None or picture.offsets.size != mask.offsets.size:
            continue
        both = (picture.offsets > 0) & (mask.offsets > 0)
        expected = picture.offsets + picture.counts + np.uint64(around)
        wrong = both & (mask.offsets != expected)
        if wrong.any():
            errors.append(f"{label(layout, mask)}: block {int(wrong.argmax())} does not follow its pixels")
    return errors
