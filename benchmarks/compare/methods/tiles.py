"""The methods for tiles: variants of the engine and its peers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.compare.jobs import Encoding
from benchmarks.compare.methods.cogs import Method, chosen_methods, codec_name

_COGEO = ("rasterio", "rio-cogeo")


def tile_methods(
    encoding: Encoding,
    *,
    size_tolerances: Sequence[float],
    engine: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
) -> tuple[Method, ...]:
    """Return the methods of these names, engine first; the usual ones for None.

    Raises
    ------
    UnknownMethod, MissingPackage
        As `benchmarks.compare.methods.cogs.methods` does.
    """
    return chosen_methods(_variants(encoding, size_tolerances), _peers(encoding), engine=engine, peers=peers)


def _variants(encoding: Encoding, size_tolerances: Sequence[float]) -> dict[str, Method]:
    same = Method("same", f"gdaltools, {codec_name(encoding)}", "engine", "tiles-engine", encoding)
    found = [same]
    if encoding.codec == "DEFLATE":
        found += [
            replace(
                same,
                name=f"adaptive-{100 * tolerance:g}",
                label=f"gdaltools, adaptive +{100 * tolerance:g}%",
                size_tolerance=tolerance,
            )
            for tolerance in size_tolerances
        ]
    plain = replace(
        same,
        name="plain",
        label="gdaltools, plain tiles",
        writer="tiles-engine-plain",
        encoding=replace(encoding, codec="ZSTD", level=1),
        cogs=False,
    )
    return {method.name: method for method in (*found, plain)}


def _peers(encoding: Encoding) -> dict[str, Method]:
    loop = Method(
        "sequential", "the loop: WarpedVRT, rio-cogeo", "peer", "tiles-sequential", encoding, packages=_COGEO
    )
    found = [
        loop,
        replace(
            loop,
            name="sequential-scale-1",
            label="the loop, XSCALE=YSCALE=1",
            writer="tiles-sequential-scale-1",
        ),
        replace(loop, name="processes", label="the loop in processes", writer="tiles-processes"),
        replace(
            loop,
            name="processes-scale-1",
            label="the loop in processes, scale 1",
            writer="tiles-processes-scale-1",
        ),
        replace(loop, name="rioxarray", label="rioxarray", writer="tiles-rioxarray", packages=("rioxarray",)),
        replace(
            loop,
            name="odc-geo",
            label="odc-geo with dask",
            writer="tiles-odc-geo",
            packages=("odc-geo", "tifffile", "imagecodecs", "rioxarray"),
        ),
    ]
    if shutil.which("gdalwarp"):
        found.append(
            replace(loop, name="gdalwarp", label="gdalwarp -multi", writer="tiles-gdalwarp", packages=())
        )
    return {method.name: method for method in found}
