"""What a benchmark refuses before it measures anything."""

from __future__ import annotations

from gdaltools.errors import GdalToolsError, InvalidParameter


class UnknownCase(InvalidParameter):
    """There is no case of this name."""


class UnknownMethod(InvalidParameter):
    """There is no peer or engine variant of this name."""


class MissingPackage(InvalidParameter):
    """What was asked for needs a package that is not installed."""

    def __init__(self, required: str, package: str) -> None:
        super().__init__(
            f"{required} needs the package {package}, which is not installed: "
            f"run it by `make bench`, or pip install -e '.[bench]'"
        )


class ChildFailed(GdalToolsError):
    """A measured process ended without a result."""


class StoreError(GdalToolsError):
    """A store of runs cannot be read or written."""

    retryable = False


class NothingToMeasure(GdalToolsError):
    """No cell of the grid can be measured here."""

    retryable = False


class TooFewRuns(GdalToolsError):
    """There are too few runs, or of too few sizes, to fit a model to."""

    retryable = False
