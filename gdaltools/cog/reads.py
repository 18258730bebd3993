"""Record the HTTP requests with which GDAL reads a part of a raster, in their order.

A server in this process listens on loopback and serves this one raster under an unguessable name. GDAL reads
from it through ``/vsicurl``, and the server records each requested range.

>>> trace_reads("scene.tif", size=400).shape
(300, 400)
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from gdaltools import storage
from gdaltools.display import html
from gdaltools.display.shown import Shown
from gdaltools.errors import CorruptRaster, InvalidParameter, UnsupportedRaster
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.picture import file_name, fitting_shape
from gdaltools.runtime.text import megabytes, redacted
from gdaltools.storage import Location, StrPath

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
# A connection to a nearby data centre, by which requests are converted to seconds.
_LATENCY_SECONDS, _MB_PER_SECOND = 0.05, 20.0


@dataclass(frozen=True)
class Request:
    """A requested range of bytes."""

    offset: int
    length: int


@dataclass(frozen=True, repr=False)
class ReadTrace(Shown):
    """The requests of one reader.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns that the reader received.
    size_bytes : int
        The size of the file.
    requests : tuple of Request
        The requests in their order.
    """

    location: str
    shape: tuple[int, int]
    size_bytes: int
    requests: tuple[Request, ...]

    @property
    def read_bytes(self) -> int:
        """The total bytes of all requests."""
        return sum(request.length for request in self.requests)

    def seconds(
        self, latency_seconds: float = _LATENCY_SECONDS, mb_per_second: float = _MB_PER_SECOND
    ) -> float:
        """Return the time that the requests take one after another over this connection.

        >>> ReadTrace("a.tif", (1, 1), 10**7, (Request(0, 10**6), Request(10**6, 10**6))).seconds(0.1, 10)
        0.4
        """
        return len(self.requests) * latency_seconds + self.read_bytes / 1e6 / mb_per_second

    def plot(self, *others: ReadTrace, ax: Any = None) -> Any:
        """Draw which parts of the file were read, with `others` below; return the matplotlib Axes.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        """
        from gdaltools.cog.plots import plot_reads

        return plot_reads(
            [
                (trace._label(), trace.size_bytes, [(each.offset, each.length) for each in trace.requests])
                for trace in (self, *others)
            ],
            ax,
        )

    def _label(self) -> str:
        return (
            f"{file_name(self.location)}: {len(self.requests)} requests, {megabytes(self.read_bytes)} of "
            f"{megabytes(self.size_bytes)}, about {self.seconds():.1f} s"
        )

    def _rows(self) -> dict[str, str]:
        return {
            "location": self.location,
            "got": f"{self.shape[1]} x {self.shape[0]} pixels",
            "requests": f"{len(self.requests)}",
            "read": f"{megabytes(self.read_bytes)} of {megabytes(self.size_bytes)} "
            f"({self.read_bytes / self.size_bytes:.1%})",
            "time": f"about {self.seconds():.1f} s at {1000 * _LATENCY_SECONDS:g} ms a request and "
            f"{_MB_PER_SECOND:g} MB/s",
        }

    def _about(self) -> str:
        return file_name(self.location)

    def _parts(self) -> Iterable[html.Html]:
        rows = (
            (number, f"{request.offset:,}", f"{request.length:,}")
            for number, request in enumerate(self.requests, start=1)
        )
        yield html.details("requests", html.table(("request", "from byte", "bytes"), rows))


def trace_reads(
    src: StrPath | Location, *, window: tuple[int, int, int, int] | None = None, size: int = 512
) -> ReadTrace:
    """Read a part of the raster at `src` over HTTP and return the requests that this took.

    Parameters
    ----------
    window : (col_off, row_off, width, height), optional
        The part to read, in pixels of the full resolution; by default the whole raster.
    size : int
        The longer side of the picture in pixels; GDAL reads the overview that fits it.

    Raises
    ------
    InvalidParameter
        `window` reaches outside the raster, or `size` is not positive.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As `gdaltools.inspect` does; UnsupportedRaster also if `src` is not a TIFF.
    """
    if size < 1:
        raise InvalidParameter(f"size {size}: give a positive number of pixels")
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        if dataset.driver not in ("GTiff", "COG"):
            raise UnsupportedRaster(
                f"{location} is a {dataset.driver} file: only of TIFFs a part can be read"
            )
        whole = dataset.width, dataset.height
    part = Window(*(window or (0, 0, *whole)))
    if (
        part.col_off < 0 or part.row_off < 0 or part.width < 1 or part.height < 1
        or part.col_off + part.width > whole[0] or part.row_off + part.height > whole[1]
    ):  # fmt: skip
        raise InvalidParameter(f"window {window}: it leaves the raster of {whole[0]} x {whole[1]} pixels")
    shape = fitting_shape(part.width, part.height, size)
    with _serving(location) as (url, requests):
        try:
            with rasterio.Env(**_OPTIONS), rasterio.open(f"/vsicurl/{url}", driver="GTiff") as remote:
                remote.read(window=part, out_shape=(remote.count, *shape))
        except RasterioError as error:
            raise CorruptRaster(f"{location} cannot be read over HTTP: {redacted(str(error))}") from error
    return ReadTrace(str(location), shape, storage.stat(location).size, tuple(requests))


_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_PROXY": "",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_PAM_ENABLED": "NO",
}


@contextmanager
def _serving(location: Location) -> Iterator[tuple[str, list[Request]]]:
    """Serve the raster on loopback inside the block; yield its URL and the growing list of requests."""
    requests: list[Request] = []
    path = f"/{secrets.token_urlsafe(16)}/{location.stem[:40].encode('ascii', 'ignore').decode()}.tif"
    path = path.replace(" ", "_")
    size = storage.stat(location).size

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.send_header("Content-Length", str(size if self.path == path else 0))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()

        def do_GET(self) -> None:
            match = _RANGE.match(self.headers.get("Range", ""))
            if self.path != path or match is None:
                self.send_error(404 if self.path != path else 400)
                return
            start = int(match[1])
            end = min(int(match[2] or size - 1), size - 1)
            if start > end:
                self.send_error(416)
                return
            content = storage.read_range(location, start, end - start + 1)
            requests.append(Request(start, len(content)))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Write nothing to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{path}", requests
        finally:
            server.shutdown()
            thread.join()
