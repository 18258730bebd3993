"""Which kind of storage a location is in."""

from __future__ import annotations

from gdaltools.storage.azure.store import AzureStore
from gdaltools.storage.local import LocalStore
from gdaltools.storage.location import Kind, Location
from gdaltools.storage.memory import MemoryStore
from gdaltools.storage.store import Store

_STORES: dict[Kind, Store] = {"local": LocalStore(), "azure": AzureStore(), "memory": MemoryStore()}


def store_of(location: Location) -> Store:
    """The storage that holds a location's bytes."""
    return _STORES[location.kind]
