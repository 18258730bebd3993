"""Fit a calibration to runs: prices by quantile regression, intervals out of sample, judged on larger sizes.

The median of seconds is a sum of prices times features (`gdaltools.cost.workload.features`). scikit-learn's
quantile regression (linear programming, HiGHS) fits it with weights of one over the seconds: errors count as
shares, and one run that went wrong moves nothing. Larger rasters weigh more, by the square root of their
size: there are few of them, and the thresholds are about larger ones still. A price that comes out negative
is set to 0 and the rest is refitted, so that a larger raster never gets the smaller estimate. Intervals are
quantiles, with the same size weights, of measured over predicted seconds, where the predicting model had not
seen the run's size. Size weights matter there too: starting the process is most of what a small raster takes,
and says little about large ones.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibrate.store import Contents, Run, measured_runs
from benchmarks.command import now
from benchmarks.errors import TooFewRuns
from gdaltools.cost.calibration import Calibration, Judgement, MeasuredOn, OperationModel, Spread
from gdaltools.cost.workload import OPERATIONS, features, memory_bound_mb

_LOW, _MIDDLE, _HIGH = 0.05, 0.5, 0.95
#: The minimum of runs, and of sizes, for a model.
FEWEST_RUNS, FEWEST_SIZES = 12, 2
_FEWEST_HELD_OUT = 5
# Sizes within this factor count as one.
_SAME_SIZE = 1.5


@dataclass(frozen=True)
class Fitted:
    """The result of a fit.

    Attributes
    ----------
    notes : tuple of str
        What could not be fitted, and what was left out.
    residuals : dict
        For each operation: (megabytes, measured / predicted out of sample, whether the run was held out).
    """

    calibration: Calibration
    notes: tuple[str, ...]
    residuals: dict[str, tuple[tuple[float, float, bool], ...]]


def fit(contents: Contents, *, note: str) -> Fitted:
    """Return a calibration of the store's runs on the machine of its last sitting.

    Raises
    ------
    TooFewRuns
        No operation has enough runs; the message says what each one lacks.
    """
    if contents.machine is None:
        raise TooFewRuns("the store holds no sitting: measure first, with python -m benchmarks.run")
    models: dict[str, OperationModel] = {}
    residuals: dict[str, tuple[tuple[float, float, bool], ...]] = {}
    notes: list[str] = []
    used: list[Run] = []
    elsewhere = _sittings_elsewhere(contents)
    here = [run for run in contents.runs if run.sitting not in elsewhere]
    if len(here) < len(contents.runs):
        notes.append(f"{len(contents.runs) - len(here)} runs of another machine are left out")
    for operation in OPERATIONS:
        runs = [run for run in measured_runs(here) if run.work.operation == operation]
        chosen = _quiet_ones(runs)
        if len(chosen) < len(runs):
            notes.append(
                f"{operation}: {len(runs) - len(chosen)} of {len(runs)} runs were not quiet: left out"
            )
        try:
            models[operation], residuals[operation] = fit_operation(chosen)
        except TooFewRuns as error:
            notes.append(f"{operation}: {error}; estimates of it go on by the default calibration")
        else:
            used += chosen
    if not models:
        raise TooFewRuns(". ".join(notes))
    noisy = sum(not run.quiet for run in used)
    if noisy:
        notes.append(f"{noisy} of {len(used)} runs were not quiet, and are used for want of others")
    failed = [run for run in here if run.error is not None]
    notes += [f"{run.cell.key if run.cell else 'a task'} failed: {run.error}" for run in failed[:10]]
    machine = contents.machine
    return Fitted(
        Calibration(
            created=now(),
            note=note,
            machine=MeasuredOn(
                processor=Counter(run.processor or machine.processor for run in used).most_common(1)[0][0],
                cores=machine.cores,
                memory_mb=machine.memory_mb,
                system=machine.system,
                python=machine.python,
                gdal=machine.gdal,
                others_cores=round(median([run.others_cores or 0.0 for run in used]), 2),
            ),
            models=models,
        ),
        tuple(notes),
        residuals,
    )


def _sittings_elsewhere(contents: Contents) -> set[str]:
    """Return the sittings that ran on a different machine than the last one."""
    machines = {each.sitting: (each.machine.processor, each.machine.cores) for each in contents.sittings}
    last = contents.sittings[-1].sitting
    return {name for name, machine in machines.items() if machine != machines[last]}


def _quiet_ones(runs: Sequence[Run]) -> list[Run]:
    """Return the quiet runs if they suffice for a model and are at least half of all; else all runs."""
    quiet = [run for run in runs if run.quiet]
    return quiet if _enough(quiet) and 2 * len(quiet) >= len(runs) else list(runs)


def _enough(runs: Sequence[Run]) -> bool:
    return len(runs) >= FEWEST_RUNS and len(set(_levels(runs))) >= FEWEST_SIZES


def fit_operation(runs: Sequence[Run]) -> tuple[OperationModel, tuple[tuple[float, float, bool], ...]]:
    """Return a model of one operation's runs, and each run's residual as in `Fitted.residuals`.

    Raises
    ------
    TooFewRuns
        There are fewer than 12 runs, or all are of one size.
    """
    levels = _levels(runs)
    if not _enough(runs):
        raise TooFewRuns(
            f"{len(runs)} runs of {len(set(levels))} sizes are too few for a model: "
            f"{FEWEST_RUNS} of {FEWEST_SIZES} are needed"
        )
    everything = np.array(levels)
    judgement, held = _judge(runs, everything)
    ratios = _out_of_sample(runs, everything)
    shares = [
        run.work.layout.on_storage_mb / run.work.layout.megabytes for run in runs if run.work.layout.codec
    ]
    sizes = [run.work.layout.megabytes for run in runs]
    peaks = [run.peak_mb / memory_bound_mb(run.work) for run in runs if run.peak_mb]
    model = OperationModel(
        prices=fit_prices(runs),
        spread=_spread(ratios, _weights(runs)),
        memory=_spread(np.array(peaks)) if peaks else Spread(low=1.0, median=1.0, high=1.0),
        runs=len(runs),
        smallest_mb=min(sizes),
        largest_mb=max(sizes),
        least_share=min(shares, default=1.0),
        cores=tuple(sorted({run.work.cores for run in runs})),
        judgement=judgement,
    )
    residuals = zip(sizes, ratios.tolist(), held.tolist(), strict=True)
    return model, tuple(residuals)


def fit_prices(runs: Sequence[Run]) -> dict[str, float]:
    """Return the seconds per unit of each feature that occurs in the runs; none is negative."""
    from sklearn.linear_model import QuantileRegressor

    rows = [features(run.work) for run in runs]
    seconds = np.array([max(run.seconds or 0.0, 1e-3) for run in runs])
    names = sorted({name for row in rows for name in row})
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    scales = matrix.max(axis=0)
    weights = _weights(runs) / seconds
    prices = dict.fromkeys(names, 0.0)
    kept = list(range(len(names)))
    while kept:
        regression = QuantileRegressor(quantile=_MIDDLE, alpha=0.0, fit_intercept=False, solver="highs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # collinear features have no single solution: any of them will do
            regression.fit(matrix[:, kept] / scales[kept], seconds, sample_weight=weights)
        least = int(np.argmin(regression.coef_))
        if regression.coef_[least] >= 0:
            found = zip(kept, regression.coef_, strict=True)
            prices |= {names[at]: float(value / scales[at]) for at, value in found}
            break
        del kept[least]
    return {name: float(f"{value:.6g}") for name, value in prices.items()}


def _weights(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Return the weights of runs: the square root of their size."""
    return np.sqrt([run.work.layout.megabytes for run in runs])


def _judge(runs: Sequence[Run], levels: NDArray[np.int_]) -> tuple[Judgement | None, NDArray[np.bool_]]:
    """Judge a model of the smaller sizes on the larger ones; None if there are too few of either."""
    for level in sorted(set(levels.tolist()), reverse=True)[:-1]:
        held = levels >= level
        small = [run for run, is_held in zip(runs, held, strict=True) if not is_held]
        if held.sum() < _FEWEST_HELD_OUT:
            continue
        if not _enough(small):
            break
        large = [run for run, is_held in zip(runs, held, strict=True) if is_held]
        spread = _spread(_out_of_sample(small, levels[~held]), _weights(small))
        ratios = _ratios(large, small)
        return (
            Judgement(
                runs=len(large),
                fitted_up_to_mb=max(run.work.layout.megabytes for run in small),
                held_out_from_mb=min(run.work.layout.megabytes for run in large),
                median_error=float(np.median(np.abs(ratios - 1))),
                coverage=float(np.mean((ratios >= min(spread.low, 1)) & (ratios <= max(spread.high, 1)))),
            ),
            held,
        )
    return None, np.zeros(len(runs), bool)


def _out_of_sample(runs: Sequence[Run], levels: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return measured over predicted seconds, predicted by models that have not seen runs of that size."""
    ratios = np.ones(len(runs))
    for level in set(levels.tolist()):
        out = levels == level
        seen = [run for run, is_out in zip(runs, out, strict=True) if not is_out]
        ratios[out] = _ratios([run for run, is_out in zip(runs, out, strict=True) if is_out], seen)
    return ratios


def _ratios(runs: Sequence[Run], seen: Sequence[Run]) -> NDArray[np.float64]:
    """Return what `runs` took as multiples of the prediction by a model fitted to `seen`."""
    neutral = Spread(low=1.0, median=1.0, high=1.0)
    model = OperationModel(
        prices=fit_prices(seen), spread=neutral, memory=neutral, runs=len(seen), smallest_mb=0, largest_mb=1
    )
    # Few runs may leave a kind's price undetermined, and the model then predicts next to nothing.
    least = min(run.seconds or 0.0 for run in seen) / 10
    return np.array([(run.seconds or 0.0) / max(model.predict(run.work).median, least, 1e-6) for run in runs])


def _spread(ratios: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> Spread:
    """Return the quantiles of ratios, by quantile regression of their logarithms on a constant."""
    from sklearn.linear_model import QuantileRegressor

    logarithms = np.log(np.maximum(ratios, 1e-6))
    nothing = np.zeros((len(ratios), 1))
    low, middle, high = (
        math.exp(
            QuantileRegressor(quantile=q, alpha=0.0, solver="highs")
            .fit(nothing, logarithms, sample_weight=weights)
            .intercept_
        )
        for q in (_LOW, _MIDDLE, _HIGH)
    )
    return Spread(low=round(low, 4), median=round(middle, 4), high=round(high, 4))


def _levels(runs: Sequence[Run]) -> list[int]:
    """Return the size level of each run; sizes that are close together share a level."""
    sizes = sorted({run.work.layout.megabytes for run in runs})
    level, starts = 0, {}
    begin = sizes[0] if sizes else 0.0
    for size in sizes:
        if size > begin * _SAME_SIZE:
            level, begin = level + 1, size
        starts[size] = level
    return [starts[run.work.layout.megabytes] for run in runs]
