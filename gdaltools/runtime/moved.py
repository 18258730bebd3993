"""Names that have moved: the old ones work for one version, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def moved(old: str, new: str, *, stacklevel: int = 3) -> Any:
    """Return the member now called `new`, a dotted name, and warn that its `old` name is deprecated.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True, action="always") as heard:
    ...     moved("math.root", "math.sqrt")(9)
    3.0
    >>> str(heard[0].message)
    'math.root is now math.sqrt'
    """
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=stacklevel)
    module, _, name = new.rpartition(".")
    return getattr(import_module(module), name)


class MovedModules(MetaPathFinder, Loader):
    """Find modules under their old names; each import of one warns once.

    Parameters
    ----------
    names : mapping
        The new name of each module, by its old name.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def install(self) -> None:
        """Make the import system ask this finder when it has found nothing itself."""
        sys.meta_path.append(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that has moved, else None."""
        return ModuleSpec(fullname, self) if fullname in self._names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave the creation to the import system."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Give the old module the members of the new one."""
        new = self._names[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}", DeprecationWarning, stacklevel=2)
        module.__getattr__ = lambda name: getattr(import_module(new), name)  # type: ignore[method-assign]
