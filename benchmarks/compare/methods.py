"""The methods that are compared: variants of the engine and its peers, each with its options.

All share codec, level, predictor, block size and resampling, except for the variants that exist to differ:
the adaptive ones, which may write another number of bytes, and ZSTD next to DEFLATE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.compare.jobs import Encoding, Writer
from benchmarks.compare.peers import cogs, tiles
from benchmarks.errors import MissingPackage, UnknownMethod
from benchmarks.machine import version_of

Output = Literal["cog", "tiles"]

_ODC_GEO = ("odc-geo", "tifffile", "imagecodecs", "rioxarray")
_ENGINES: dict[Output, Writer] = {"cog": cogs.engine, "tiles": tiles.engine}
# Name, label, writer and required distributions.
_PEERS: dict[Output, tuple[tuple[str, str, Writer, tuple[str, ...]], ...]] = {
    "cog": (
        ("gdal", "GDAL COG driver", cogs.gdal, ()),
        ("rio-cogeo", "rio-cogeo", cogs.rio_cogeo, ("rio-cogeo",)),
        ("rio-cogeo-tuned", "rio-cogeo, all threads, on disk", cogs.rio_cogeo_tuned, ("rio-cogeo",)),
        ("rioxarray", "rioxarray", cogs.rioxarray_cog, ("rioxarray",)),
        ("odc-geo", "odc-geo with dask", cogs.odc_geo, _ODC_GEO),
    ),
    "tiles": (
        ("sequential", "the loop: WarpedVRT, rio-cogeo", tiles.sequential, ("rio-cogeo",)),
        ("sequential-scale-1", "the loop, XSCALE=YSCALE=1", tiles.sequential_scale_1, ("rio-cogeo",)),
        ("processes", "the loop in processes", tiles.processes, ("rio-cogeo",)),
        ("odc-geo", "odc-geo with dask", tiles.odc_geo, _ODC_GEO),
    ),
}


@dataclass(frozen=True)
class Method:
    """One way to write the output.

    Attributes
    ----------
    name : str
        Its name on the command line and in JSON.
    label : str
        Its name in tables.
    size_tolerance : float or None
        The engine's size tolerance, if it is adaptive.
    packages : tuple of str
        Distributions that it needs.
    """

    name: str
    label: str
    role: Literal["engine", "peer"]
    writer: Writer
    encoding: Encoding
    size_tolerance: float | None = None
    packages: tuple[str, ...] = ()

    def missing_package(self) -> str | None:
        """Return the first required package that is not installed, or None."""
        return next((name for name in self.packages if version_of(name) is None), None)


def methods(
    output: Output,
    encoding: Encoding,
    *,
    size_tolerances: Sequence[float],
    engine: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
) -> tuple[Method, ...]:
    """Return the methods of these names, engine first; all of them for None.

    Parameters
    ----------
    encoding : Encoding
        The options shared by all methods.
    size_tolerances : sequence of float
        One adaptive variant for each, if the codec is DEFLATE: 0.015 gives ``adaptive-1.5``.
    engine, peers : sequence of str, optional
        Names; empty for none.

    Raises
    ------
    UnknownMethod
        A name is unknown, or does not go with the codec.
    MissingPackage
        A peer passed by name needs a package that is not installed. By default it is returned all the same,
        to be reported as skipped.
    """
    variants = {each.name: each for each in _variants(output, encoding, size_tolerances)}
    others = {each.name: each for each in _peers(output, encoding)}
    chosen = [
        *(_named(name, variants, "engine variant") for name in (variants if engine is None else engine)),
        *(_named(name, others, "peer") for name in (others if peers is None else peers)),
    ]
    for method in chosen if peers is not None else ():
        missing = method.missing_package()
        if missing is not None:
            raise MissingPackage(f"peer {method.name}", missing)
    return tuple(chosen)


def names_of(output: Output) -> tuple[str, str]:
    """Return the names of the engine's variants and of the peers with DEFLATE, for the command's help."""
    deflate = Encoding("DEFLATE", 6, 2)
    variants, peers = _variants(output, deflate, (0.015, 0.03)), _peers(output, deflate)
    return ", ".join(each.name for each in variants), ", ".join(each.name for each in peers)


def _variants(output: Output, encoding: Encoding, size_tolerances: Sequence[float]) -> Iterator[Method]:
    same = Method("same", f"gdaltools, {encoding}", "engine", _ENGINES[output], encoding)
    yield same
    if encoding.codec == "DEFLATE":
        for tolerance in size_tolerances:
            percent = f"{100 * tolerance:g}"
            label = f"gdaltools, adaptive +{percent}%"
            yield replace(same, name=f"adaptive-{percent}", label=label, size_tolerance=tolerance)
        zstd = _zstd(encoding)
        yield replace(same, name="zstd-3", label=f"gdaltools, {zstd}", encoding=zstd)


def _peers(output: Output, encoding: Encoding) -> Iterator[Method]:
    for name, label, writer, packages in _PEERS[output]:
        method = Method(name, label, "peer", writer, encoding, packages=packages)
        yield method
        if name == "gdal" and encoding.codec == "DEFLATE":
            zstd = _zstd(encoding)
            yield replace(method, name="gdal-zstd-3", label=f"{label}, {zstd}", encoding=zstd)


def _zstd(encoding: Encoding) -> Encoding:
    """Return ZSTD 3, to compare with DEFLATE."""
    return replace(encoding, codec="ZSTD", level=3)


def _named(name: str, known: Mapping[str, Method], what: str) -> Method:
    if name not in known:
        raise UnknownMethod(f"{what} {name!r} is unknown: use some of {', '.join(known)}")
    return known[name]
