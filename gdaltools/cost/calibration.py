"""Calibrations: prices of features, fitted to runs on one machine, and the spread of the runs around them.

`python -m benchmarks.run` writes a calibration. `load` reads the file that GDALTOOLS_CALIBRATION names, else
the default in the package. What was not measured gets the highest price of its kind, and is reported.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gdaltools.cost.workload import SOME_CODEC, Workload, features
from gdaltools.errors import InvalidParameter

SCHEMA = "gdaltools-calibration-1"
#: The environment variable that names the calibration file of estimates and routing.
VARIABLE = "GDALTOOLS_CALIBRATION"
DEFAULT_FILE = Path(__file__).with_name("default_calibration.json")


class InvalidCalibration(InvalidParameter):
    """A calibration file cannot be read, or has another schema."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class MeasuredOn(_Frozen):
    """The machine and software of the runs.

    Attributes
    ----------
    others_cores : float
        Cores that were busy with other work, the median over runs. Above a few tenths, seconds are too high.
    """

    processor: str
    cores: int
    memory_mb: int
    system: str
    python: str
    gdal: str
    others_cores: float = 0.0

    def __str__(self) -> str:
        load = f", {self.others_cores:.1f} cores busy with something else" if self.others_cores >= 0.1 else ""
        return f"{self.cores} cores of {self.processor}, {self.memory_mb / 1000:.0f} GB{load}"


class Spread(_Frozen):
    """Quantiles of measured values, as multiples of expected values."""

    low: float
    median: float
    high: float


class Judgement(_Frozen):
    """The accuracy of a model on runs that it was not fitted to, all larger than those that it was fitted to.

    Attributes
    ----------
    median_error : float
        Median of |measured / predicted − 1|.
    coverage : float
        Share of the runs within the 90% interval.
    """

    runs: int
    fitted_up_to_mb: float
    held_out_from_mb: float
    median_error: float
    coverage: float


class Prediction(_Frozen):
    """Predicted seconds: the median, the 5th and 95th percentile, and what was never measured, in words."""

    low: float
    median: float
    high: float
    unmeasured: tuple[str, ...] = ()


class OperationModel(_Frozen):
    """The measured cost of one operation.

    Attributes
    ----------
    prices : dict
        Seconds for one unit of each feature of `gdaltools.cost.workload.features`; none is negative.
    spread : Spread
        Measured seconds as multiples of predicted ones, out of sample.
    memory : Spread
        Measured peaks as multiples of the plans' own bounds.
    smallest_mb, largest_mb : float
        The smallest and largest uncompressed size that was measured.
    least_share : float
        The smallest file that was measured, as a share of its pixels.
    cores : tuple of int
        Numbers of cores that were measured.
    """

    prices: dict[str, float] = Field(min_length=1)
    spread: Spread
    memory: Spread
    runs: int
    smallest_mb: float
    largest_mb: float
    least_share: float = 1.0
    cores: tuple[int, ...] = (1,)
    judgement: Judgement | None = None

    def predict(self, workload: Workload) -> Prediction:
        """Return the seconds of a workload, with a 90% interval; never less for a larger raster."""
        prices = {name: self._price(name) for name in features(workload)}
        seconds = sum(prices[name] * value for name, value in features(workload).items())
        return Prediction(
            low=seconds * min(self.spread.low, 1.0),
            median=seconds,
            high=seconds * max(self.spread.high, 1.0),
            unmeasured=tuple(self._unmeasured(workload)),
        )

    def _price(self, name: str) -> float:
        """Return a feature's price; for a feature that was not measured, the highest price of its kind."""
        if name in self.prices:
            return self.prices[name]
        kind, _, rest = name.partition(":")
        like = [price for other, price in self.prices.items() if rest and other.startswith(f"{kind}:")]
        if kind == "work":
            variant = rest.partition(":")[0]
            same = [p for other, p in self.prices.items() if other.startswith(f"work:{variant}:")]
            like = same or like
        return max(like, default=0.0)

    def _unmeasured(self, workload: Workload) -> Iterator[str]:
        layout = workload.layout
        for name in features(workload):
            if name not in self.prices and name != f"decode:{SOME_CODEC}" and not name.startswith("start"):
                yield f"{_FEATURE_NAMES.get(name.partition(':')[0], name)} {name.partition(':')[2]}".strip()
        if layout.megabytes > self.largest_mb:
            yield f"sizes over {self.largest_mb:,.0f} MB"
        if layout.codec is not None and layout.on_storage_mb < self.least_share * layout.megabytes / 1.5:
            yield f"files below {self.least_share:.0%} of their pixels"
        if self.cores and not min(self.cores) <= workload.cores <= max(self.cores):
            yield f"{workload.cores} cores"


_FEATURE_NAMES = {"work": "variant and dtype", "decode": "source codec", "remote": "blob storage"}


class Thresholds(_Frozen):
    """Limits for routing: tasks above them do not finish in time in the function app.

    Attributes
    ----------
    function_app_cores : int
        The number of cores that estimates assume.
    target : str
        The function app, in words.
    """

    size_threshold_mb: float = Field(gt=0)
    duration_threshold_minutes: float = Field(gt=0)
    function_app_cores: int = Field(ge=1)
    target: str


class Calibration(_Frozen):
    """Models by operation, their origin, and thresholds if they were requested."""

    schema_name: Literal["gdaltools-calibration-1"] = "gdaltools-calibration-1"
    created: str
    default: bool = False
    note: str
    machine: MeasuredOn
    models: dict[str, OperationModel]
    thresholds: Thresholds | None = None

    def is_of_this_machine(self) -> bool:
        """Return whether this machine has the same kind of processor and as many cores."""
        return (self.machine.processor, self.machine.cores) == (processor_name(), os.cpu_count())

    @property
    def source(self) -> str:
        """The origin of the figures, for a reader; with a warning if they come from another machine."""
        kind = "default calibration, " if self.default else ""
        elsewhere = "" if self.is_of_this_machine() else "; on this machine a guess of the right order"
        return f"{kind}{self.created[:10]}, {self.machine}{elsewhere}"


def load(path: Path | None = None, *, environment: Mapping[str, str] = os.environ) -> Calibration:
    """Return the calibration at `path`; by default that of GDALTOOLS_CALIBRATION, else the package's.

    Raises
    ------
    InvalidCalibration
        The file cannot be read, is not JSON, or has another schema.
    """
    named = environment.get(VARIABLE)
    chosen = path or (Path(named) if named else DEFAULT_FILE)
    try:
        changed = chosen.stat().st_mtime_ns
    except OSError as error:
        raise InvalidCalibration(
            f"calibration {chosen} cannot be read ({error.strerror}): make one with python -m "
            f"benchmarks.run, or leave {VARIABLE} out for the default"
        ) from error
    return _read(chosen, changed)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> Calibration:
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        where = "" if first is None else f" ({'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']})"
        raise InvalidCalibration(
            f"calibration {path} is not of the schema {SCHEMA}{where}: make it anew with "
            f"python -m benchmarks.run, or leave {VARIABLE} out for the default"
        ) from error


def model_for(operation: str, calibration: Calibration) -> tuple[OperationModel, Calibration]:
    """Return an operation's model and the calibration that has it: `calibration` or else the default.

    Raises
    ------
    InvalidCalibration
        No calibration has a model of the operation.
    """
    for each in (calibration, load(DEFAULT_FILE)):
        if operation in each.models:
            return each.models[operation], each
    raise InvalidCalibration(
        f"no calibration has a model of {operation}: make one with python -m benchmarks.run"
    )


def processor_name() -> str:
    """Return the name that the machine's processor reports."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
