"""Errors that a benchmark raises, most of them before it measures anything."""

from __future__ import annotations

from gdaltools.errors import GdalToolsError, InvalidParameter


class UnknownCase(InvalidParameter):
    """No case has this name."""


class UnknownMethod(InvalidParameter):
    """No peer or engine variant has this name."""


class MissingPackage(InvalidParameter):
    """A requested case, peer or option needs a package that is not installed."""

    def __init__(self, required: str, package: str) -> None:
        super().__init__(
            f"{required} needs the package {package}, which is not installed: "
            f"run it by `make bench`, or pip install -e '.[bench]'"
        )


class ChildFailed(GdalToolsError):
    """A measured process ended without a result."""


class OutOfMemory(ChildFailed):
    """A measured process took more memory than there is, or than its limit."""


class StoreError(GdalToolsError):
    """The store of runs cannot be read or written."""

    retryable = False


class NothingToMeasure(GdalToolsError):
    """No cell of the grid can be measured on this machine."""

    retryable = False


class TooFewRuns(GdalToolsError):
    """The runs are too few, or cover too few sizes, to fit a model."""

    retryable = False
