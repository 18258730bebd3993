"""The methods for COGs: variants of the engine and its peers, each with its options.

All share codec, level, predictor, block size and resampling, except for the variants that exist to differ:
the adaptive ones, which may write another number of bytes, and ZSTD next to DEFLATE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from benchmarks.compare.jobs import Encoding
from benchmarks.errors import MissingPackage, UnknownMethod

#: The method that sizes are compared with.
REFERENCE = "gdal"

_ZSTD_LEVEL = 3
# Compared only when named explicitly.
_UNUSUAL = ("default", "gdal-small-cache")


@dataclass(frozen=True)
class Method:
    """One way to write the COG.

    Attributes
    ----------
    name : str
        Its name on the command line and in JSON.
    label : str
        Its name in tables.
    writer : str
        A key of `benchmarks.compare.peers.cogs.WRITERS`.
    size_tolerance : float or None
        The engine's size tolerance, if it is adaptive.
    packages : tuple of str
        Distributions that it needs.
    cogs : bool
        Whether its outputs must be COGs.
    """

    name: str
    label: str
    role: Literal["engine", "peer"]
    writer: str
    encoding: Encoding
    size_tolerance: float | None = None
    packages: tuple[str, ...] = ()
    cogs: bool = True

    def missing_package(self) -> str | None:
        """Return the first required package that is not installed, or None."""
        return next((name for name in self.packages if not _installed(name)), None)


def methods(
    encoding: Encoding,
    *,
    size_tolerances: Sequence[float],
    engine: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
) -> tuple[Method, ...]:
    """Return the methods of these names, engine first; the usual ones for None.

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
        A peer passed by name needs a package that is not installed. A usual one is returned all the same, to
        be reported as skipped.
    """
    return chosen_methods(
        _engine_variants(encoding, size_tolerances), _peers(encoding), engine=engine, peers=peers
    )


def chosen_methods(
    variants: Mapping[str, Method],
    others: Mapping[str, Method],
    *,
    engine: Sequence[str] | None,
    peers: Sequence[str] | None,
) -> tuple[Method, ...]:
    """Return the requested engine variants and peers, engine first; the usual ones for None.

    Raises
    ------
    UnknownMethod, MissingPackage
        As `methods` does.
    """
    usual = [name for name in variants if name not in _UNUSUAL]
    chosen_peers = [name for name in others if name not in _UNUSUAL] if peers is None else peers
    chosen = [
        *(_named(name, variants, "engine variant") for name in (usual if engine is None else engine)),
        *(_named(name, others, "peer") for name in chosen_peers),
    ]
    for method in chosen if peers is not None else ():
        missing = method.missing_package()
        if missing is not None:
            raise MissingPackage(f"peer {method.name}", missing)
    return tuple(chosen)


def _engine_variants(encoding: Encoding, size_tolerances: Sequence[float]) -> dict[str, Method]:
    same = Method("same", f"gdaltools, {codec_name(encoding)}", "engine", "engine", encoding)
    found = [same]
    if encoding.codec == "DEFLATE":
        for tolerance in size_tolerances:
            percent = f"{100 * tolerance:g}"
            found.append(
                replace(
                    same,
                    name=f"adaptive-{percent}",
                    label=f"gdaltools, adaptive +{percent}%",
                    size_tolerance=tolerance,
                )
            )
    if _with_zstd(encoding) is not None:
        zstd = _with_zstd(encoding) or encoding
        found.append(replace(same, name="zstd-3", label=f"gdaltools, {codec_name(zstd)}", encoding=zstd))
    found.append(replace(same, name="default", label="gdaltools, as it comes", writer="engine-default"))
    return {method.name: method for method in found}


def _peers(encoding: Encoding) -> dict[str, Method]:
    gdal = Method("gdal", "GDAL COG driver", "peer", "gdal", encoding, packages=("rasterio",))
    found = [gdal]
    zstd = _with_zstd(encoding)
    if zstd is not None:
        found.append(
            replace(gdal, name="gdal-zstd-3", label=f"GDAL COG driver, {codec_name(zstd)}", encoding=zstd)
        )
    found += [
        replace(
            gdal, name="gdal-small-cache", label="GDAL COG driver, 128 MB cache", writer="gdal-small-cache"
        ),
        replace(gdal, name="rio-cogeo", label="rio-cogeo", writer="rio-cogeo", packages=("rio-cogeo",)),
        replace(
            gdal,
            name="rio-cogeo-tuned",
            label="rio-cogeo, all threads, on disk",
            writer="rio-cogeo-tuned",
            packages=("rio-cogeo",),
        ),
        replace(gdal, name="rioxarray", label="rioxarray", writer="rioxarray", packages=("rioxarray",)),
        replace(
            gdal,
            name="odc-geo",
            label="odc-geo with dask",
            writer="odc-geo",
            packages=("odc-geo", "tifffile", "imagecodecs", "rioxarray"),
        ),
    ]
    return {method.name: method for method in found}


def codec_name(encoding: Encoding) -> str:
    """Return a codec and its level, as tables name them."""
    return encoding.codec if encoding.level is None else f"{encoding.codec} {encoding.level}"


def _with_zstd(encoding: Encoding) -> Encoding | None:
    """Return ZSTD 3 to compare with DEFLATE, or None for another codec."""
    return replace(encoding, codec="ZSTD", level=_ZSTD_LEVEL) if encoding.codec == "DEFLATE" else None


def _named(name: str, known: Mapping[str, Method], what: str) -> Method:
    if name not in known:
        raise UnknownMethod(f"{what} {name!r} is unknown: use some of {', '.join(known)}")
    return known[name]


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
