"""Every public function and method has an example, and ``--doctest-modules`` runs each of them."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import gdaltools as gt
from gdaltools.xr.accessor import GdaltoolsAccessor, GdaltoolsDatasetAccessor


def public() -> Iterator[tuple[str, Any]]:
    """Yield the package's public functions, and the methods that its public classes define."""
    named = [getattr(gt, name) for name in gt.__all__]
    for value in [*named, GdaltoolsAccessor, GdaltoolsDatasetAccessor]:
        if not inspect.isclass(value):
            yield value.__name__, value
            continue
        for kind in (each for each in value.__mro__ if each.__module__.startswith("gdaltools.")):
            for name, member in vars(kind).items():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and not name.startswith("_"):
                    yield f"{kind.__name__}.{name}", function


@pytest.mark.parametrize("function", [pytest.param(each, id=name) for name, each in dict(public()).items()])
def test_it_has_an_example_that_is_run(function: Any) -> None:
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(function) or "")
    assert [each for each in examples if not each.options.get(doctest.SKIP)], function.__doc__
