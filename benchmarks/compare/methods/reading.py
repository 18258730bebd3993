"""The methods that read rasters and run tasks: the engine, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.compare.jobs import Encoding
from benchmarks.compare.methods.cogs import Method, chosen_methods


def read_methods(
    encoding: Encoding, *, engine: Sequence[str] | None = None, peers: Sequence[str] | None = None
) -> tuple[Method, ...]:
    """Return the readers of these names, engine first; the usual ones for None.

    Raises
    ------
    UnknownMethod, MissingPackage
        As `benchmarks.compare.methods.cogs.methods` does.
    """
    own = Method("open", "gdaltools.open", "engine", "read-engine", encoding)
    peer = Method("rasterio", "rasterio, all at once", "peer", "read-rasterio", encoding)
    others = (
        replace(peer, name="rasterio-windows", label="rasterio by windows", writer="read-rasterio-windows"),
        replace(
            peer,
            name="rioxarray",
            label="rioxarray with dask",
            writer="read-rioxarray",
            packages=("rioxarray",),
        ),
        replace(
            peer, name="odc-stac", label="odc-stac with dask", writer="read-odc-stac", packages=("odc-stac",)
        ),
        peer,
    )
    return chosen_methods(
        {own.name: own}, {method.name: method for method in others}, engine=engine, peers=peers
    )


def worker_methods(
    encoding: Encoding, *, engine: Sequence[str] | None = None, peers: Sequence[str] | None = None
) -> tuple[Method, ...]:
    """Return the worker, its runner and the bare loop, by name; all of them for None.

    Raises
    ------
    UnknownMethod, MissingPackage
        As `benchmarks.compare.methods.cogs.methods` does.
    """
    whole = Method("worker", "the whole worker", "engine", "worker-whole", encoding, packages=("psycopg",))
    runner = replace(whole, name="runner", label="a process each", writer="worker-runner")
    bare = replace(whole, name="loop", label="a bare loop", role="peer", writer="worker-bare")
    return chosen_methods(
        {whole.name: whole, runner.name: runner}, {bare.name: bare}, engine=engine, peers=peers
    )
