"""Everything that a raster's file states about its pixels, as a value that outlives the open dataset.

A COG states the same about its own pixels: GDAL writes these facts into a small template, and the COG takes
over the template's TIFF tags (`gdaltools.cog.format.template`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from pyproj import CRS as ProjCRS
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from gdaltools.raster.dataset import nodata_of, numpy_dtypes, vrt_of

# Domains that GDAL derives from the file itself, or that have their own fields below.
_OWN_DOMAINS = ("", "IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "TIFF", "RPC", "GEOLOCATION", "COLOR_PROFILE")
_XMP = "xml:XMP"
# Only the CRS of the dataset itself, the first element of a VRT.
_EPOCH = re.compile(rb'<VRTDataset [^>]*>\s*<SRS [^>]*coordinateEpoch="([0-9.]+)"')
#: What the first bands of a colour picture show.
RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)

MaskKind = Literal["none", "nodata", "alpha", "mask"]


@dataclass(frozen=True)
class Facts:
    """What a file states about the pixels of a raster.

    Attributes
    ----------
    dtype : str
        rasterio's name of the bands' dtype; if they differ, the dtype that holds them all.
    sample_bits : int or None
        GDAL's NBITS, if less than the bits of the dtype.
    masked : bool
        Whether a per-dataset mask marks the pixels that hold data.
    domains : mapping
        The dataset's metadata, by domain; for a domain "xml:…" the document, under the domain's name.
    band_tags, band_domains : tuple of mapping
        Each band's metadata: of the default domain, and of the others by domain.
    xmp : str or None
        The XMP packet.
    color_profile : mapping
        GDAL's domain COLOR_PROFILE: an ICC profile in base64, or primaries, white point and transfer
        functions.
    white_is_zero : bool
        Whether small values are shown bright (TIFF 6.0, PhotometricInterpretation 0).
    gcps : tuple
        Ground control points and the WKT of their CRS.
    epoch : float or None
        The year at which coordinates in a dynamic CRS are valid, for example 2021.3 (GDAL RFC 81).
    """

    width: int
    height: int
    count: int
    dtype: str
    sample_bits: int | None
    nodata: float | None
    masked: bool
    transform: Affine
    crs_wkt: str | None
    colorinterp: tuple[ColorInterp, ...]
    colormap: Mapping[int, tuple[int, int, int, int]] | None
    descriptions: tuple[str | None, ...]
    units: tuple[str | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    domains: Mapping[str, Mapping[str, str]]
    band_tags: tuple[Mapping[str, str], ...]
    gcps: tuple[tuple[GroundControlPoint, ...], str | None] = ((), None)
    rpcs: RPC | None = None
    band_domains: tuple[Mapping[str, Mapping[str, str]], ...] = ()
    xmp: str | None = None
    color_profile: Mapping[str, str] = field(default_factory=dict)
    white_is_zero: bool = False
    epoch: float | None = None

    @property
    def crs(self) -> CRS | None:
        """The CRS; None if there is none."""
        return CRS.from_wkt(self.crs_wkt) if self.crs_wkt else None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of the samples in memory; GDAL's complex integers are complex64 there."""
        return np.dtype("complex64" if self.dtype.startswith("complex_int") else self.dtype)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel in memory, all bands together."""
        return self.numpy_dtype.itemsize * self.count

    @property
    def hides(self) -> bool:
        """Whether the last band is an alpha and GDAL's mask of the others (GDALRasterBand::GetMaskBand)."""
        return (
            self.count in (2, 4)
            and self.colorinterp[-1] == ColorInterp.alpha
            and self.dtype in ("uint8", "uint16")
            and self.nodata is None
            and not self.masked
        )

    @property
    def own_alphas(self) -> tuple[int, ...]:
        """Indexes, from 0, of alpha bands beside a mask or nodata, which GDAL uses as the mask instead."""
        if self.hides or (self.nodata is None and not self.masked):
            return ()
        return tuple(band for band, shows in enumerate(self.colorinterp) if shows == ColorInterp.alpha)

    @property
    def colours(self) -> bool:
        """Whether the first three bands are red, green and blue."""
        return self.colorinterp[:3] == RGB

    def warped(self, *, width: int, height: int, transform: Affine, crs: CRS, masked: bool) -> Facts:
        """Return the facts that hold on another grid: without statistics and what locates the old pixels.

        A coordinate epoch holds in CRSs of the same datum only.
        """
        own = ProjCRS.from_wkt(self.crs_wkt).geodetic_crs if self.crs_wkt else None
        other = ProjCRS.from_wkt(crs.to_wkt()).geodetic_crs
        same_datum = own is not None and other is not None and own.datum == other.datum
        return replace(
            self,
            width=width,
            height=height,
            transform=transform,
            crs_wkt=crs.to_wkt(),
            masked=masked,
            band_tags=tuple(without_statistics(tags) for tags in self.band_tags),
            gcps=((), None),
            rpcs=None,
            epoch=self.epoch if same_datum else None,
        )


def facts_of(dataset: DatasetReader, *, masked: bool) -> Facts:
    """Return the facts of an open raster."""
    dtypes = set(dataset.dtypes)
    dtype = str(dtypes.pop()) if len(dtypes) == 1 else np.result_type(*numpy_dtypes(dataset)).name
    points, points_crs = dataset.gcps
    return Facts(
        width=dataset.width,
        height=dataset.height,
        count=dataset.count,
        dtype=dtype,
        sample_bits=sample_bits(dataset),
        nodata=nodata_of(dataset),
        masked=masked,
        transform=dataset.transform,
        crs_wkt=dataset.crs.to_wkt() if dataset.crs else None,
        colorinterp=tuple(dataset.colorinterp),
        colormap=color_table(dataset),
        descriptions=tuple(dataset.descriptions),
        units=tuple(dataset.units),
        scales=tuple(dataset.scales),
        offsets=tuple(dataset.offsets),
        domains={"": dataset.tags()} | {name: dataset.tags(ns=name) for name in _domains(dataset, 0)},
        band_tags=tuple(dataset.tags(band) for band in dataset.indexes),
        gcps=(tuple(points), points_crs.to_wkt() if points and points_crs else None),
        rpcs=dataset.rpcs,
        band_domains=tuple(
            {name: dataset.tags(band, ns=name) for name in _domains(dataset, band)}
            for band in dataset.indexes
        ),
        xmp=dataset.tags(ns=_XMP).get(_XMP),
        color_profile=dataset.tags(ns="COLOR_PROFILE"),
        white_is_zero=dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES",
        epoch=_coordinate_epoch(dataset) if dataset.crs else None,
    )


def _coordinate_epoch(dataset: DatasetReader) -> float | None:
    """Return the coordinate epoch, which rasterio 1.4 has no name for, from GDAL's description as a VRT."""
    found = _EPOCH.match(vrt_of(dataset))
    return float(found[1]) if found else None


def color_table(
    dataset: DatasetReader | WarpedVRT, band: int = 1
) -> dict[int, tuple[int, int, int, int]] | None:
    """Return a band's colour table, else None; in a TIFF only the first band can have a table.

    A band may be a palette without a table, as in a TIFF without its ColorMap tag.
    """
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return None
    try:
        return dict(dataset.colormap(band))
    except ValueError:  # how rasterio reports a band without a table
        return None


def _domains(dataset: DatasetReader, band: int) -> list[str]:
    # GDAL cannot write a JSON document into a TIFF; its COG driver leaves it out as well.
    return [
        name
        for name in dataset.tag_namespaces(band)
        if name not in _OWN_DOMAINS and name != _XMP and not name.startswith("json:")
    ]


def sample_bits(dataset: DatasetReader) -> int | None:
    """Return the bits of a sample if they are fewer than its dtype has, else None."""
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    return int(bits) if bits else None


def without_statistics(tags: Mapping[str, str]) -> dict[str, str]:
    """Return a band's metadata without statistics, for pixels that are no longer the same."""
    return {name: value for name, value in tags.items() if not name.startswith("STATISTICS_")}


def mask_kind(dataset: DatasetReader) -> MaskKind:
    """Return how the raster marks pixels without data; a mask or alpha takes precedence over nodata."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.alpha in flags:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        return "mask"
    return "nodata" if nodata_of(dataset) is not None else "none"
