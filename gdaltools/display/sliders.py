"""What-if: a value shown as its card, with sliders that compute it anew.

>>> what_if(lambda cores: gt.estimate(src, cores=cores), cores=IntSlider(2, 1, 32))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gdaltools.display.html import html
from gdaltools.display.shown import Shown
from gdaltools.errors import GdalToolsError, MissingExtra


def what_if(make: Callable[..., Shown], **controls: Any) -> Any:
    """Return the widgets below each other, and the card that `make` returns, updated whenever one is moved.

    Parameters
    ----------
    make : callable
        Takes the widgets' values by name and returns a value. An error of gdaltools is shown in its place.
    controls : widgets of ipywidgets
        Such as IntSlider or Dropdown.

    Raises
    ------
    MissingExtra
        ipywidgets is not installed.
    """
    try:
        from ipywidgets import HTML, VBox
    except ImportError as error:
        raise MissingExtra("sliders need ipywidgets: pip install 'gdaltools[notebook]'") from error
    shown = HTML()

    def moved(_: object = None) -> None:
        try:
            made = make(**{name: control.value for name, control in controls.items()})
            shown.value = made._repr_html_()
        except GdalToolsError as error:
            shown.value = html(error)

    for name, control in controls.items():
        control.description = control.description or name
        control.observe(moved, names="value")
    moved()
    return VBox([*controls.values(), shown])
