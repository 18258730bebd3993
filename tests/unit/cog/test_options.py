"""The options of a COG are declared once, and shown wherever they are taken."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

import gdaltools as gt
from gdaltools.cog.options import CogKeywords, CogOptions, EncodingKeywords
from gdaltools.xr.accessor import GdaltoolsAccessor


def test_every_option_is_a_keyword_of_the_same_type() -> None:
    types = get_type_hints(CogOptions)
    assert get_type_hints(CogKeywords) == {name: types[name] for name in types if name != "profile"}


@pytest.mark.parametrize(
    "function",
    [gt.create_cog, gt.plan_cog, gt.create_cogs, GdaltoolsAccessor.to_cog, GdaltoolsAccessor.to_tiles],
)
def test_a_person_sees_every_option_with_its_default(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    entries = "\n".join(line for line in (function.__doc__ or "").splitlines() if " : " in line)
    for field in fields(CogOptions):
        assert parameters[field.name].default == field.default
        assert field.name in entries
    assert "options" not in parameters


@pytest.mark.parametrize("function", [gt.extract_tiles, gt.plan_extraction])
def test_tiles_take_the_options_that_apply_to_them(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert parameters.keys() >= EncodingKeywords.__annotations__.keys()
    assert parameters.keys().isdisjoint(
        CogKeywords.__annotations__.keys() - EncodingKeywords.__annotations__.keys() - {"input_crs"}
    )
    assert "size_tolerance : float" in (function.__doc__ or "")


def test_a_misspelled_option_is_refused() -> None:
    with pytest.raises(TypeError, match="codek"):
        gt.plan_cog("scene.tif", codek="ZSTD")
