"""The command line: ``python -m benchmarks.compare cog|tiles``.

Tables go to stdout, progress to stderr. The exit code is 0 if every engine variant wrote the right file, 1 if
one failed or wrote a wrong one, 2 for wrong usage or a missing package, 130 after Ctrl-C. Errors of peers are
listed in the tables.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from benchmarks.compare.comparison import Plan, compare
from benchmarks.compare.jobs import CODECS, Codec, Encoding, usable_cores
from benchmarks.compare.methods.cogs import methods
from benchmarks.compare.methods.tiles import tile_methods
from benchmarks.compare.report.plot import plot, require_plotting
from benchmarks.compare.report.tables import failures, print_tables, to_markdown
from benchmarks.compare.results import CaseResult, Report
from benchmarks.compare.sources.cases import CASES, cases_named
from benchmarks.compare.sources.rasters import Source, given_source, made_source
from benchmarks.compare.work import CogWork, TilesWork, Work
from benchmarks.machine import this_machine
from benchmarks.process import require_psutil
from gdaltools.errors import GdalToolsError, InvalidParameter

OK, WRONG, USAGE, INTERRUPTED = 0, 1, 2, 130

# GDAL's own defaults, written out.
_LEVELS: dict[Codec, int | None] = {"DEFLATE": 6, "ZSTD": 9, "LZW": None, "NONE": None}
_LEVEL_RANGES: dict[Codec, tuple[int, int]] = {"DEFLATE": (1, 12), "ZSTD": (1, 22)}
_TOLERANCES = (0.015, 0.03)
_WARM_UP_MB = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one comparison; return its exit code."""
    try:
        args = _parser().parse_args(arguments)
    except SystemExit as end:  # argparse printed usage or help already
        return int(end.code or 0)
    try:
        report = run(args)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except GdalToolsError as error:
        _say(f"benchmarks.compare: {error}")
        return USAGE
    print_tables(report)
    wrong = list(failures(report))
    for sentence in wrong:
        _say(f"WRONG  {sentence}")
    return WRONG if wrong else OK


def run(args: argparse.Namespace) -> Report:
    """Compare as the arguments say; write the named outputs after each source, so that little is ever lost.

    Raises
    ------
    UnknownCase, UnknownMethod, InvalidParameter
        An argument is not one of the available values.
    MissingPackage
        Something requested by name needs a package that is not installed.
    SourceNotFound, UnsupportedRaster
        The user's source cannot be compared on.
    """
    require_psutil()
    if args.plot is not None:
        require_plotting()
    encoding = _encoding(args)
    chosen = cases_named(args.case) if args.case or args.source is None else ()
    _methods(args, encoding)  # raises before the first source is generated
    machine, options = this_machine(), _options(args)
    args.inputs.mkdir(parents=True, exist_ok=True)
    results: list[CaseResult] = []
    sources: list[tuple[Source, Source | None]] = []
    if args.source is not None:
        sources.append((given_source(args.source), None))
    for case in chosen:
        _say(f"{case.name}: making the source, unless it is there")
        small = min(_WARM_UP_MB, args.megabytes)
        pair = [
            made_source(
                case,
                megabytes=megabytes,
                folder=args.inputs,
                layout=args.source_layout,
                compress=args.source_compress,
                seed=args.seed,
            )
            for megabytes in (args.megabytes, small)
        ]
        sources.append((pair[0], pair[1] if small < args.megabytes else None))
    report = Report(created=_now(), options=options, machine=machine, cases=())
    for source, warm_up in sources:
        results.append(compare(source, _plan(args, encoding, source), warm_up=warm_up, say=_say))
        report = report.model_copy(update={"cases": tuple(results)})
        _save(report, args)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cog = commands.add_parser("cog", help="create_cog beside GDAL, rio-cogeo, rioxarray and odc-geo")
    _arguments(
        cog,
        engine="same, adaptive-1.5, adaptive-3, zstd-3, default",
        peers="gdal, gdal-zstd-3, gdal-small-cache, rio-cogeo, rio-cogeo-tuned, rioxarray, odc-geo",
    )
    tiles = commands.add_parser("tiles", help="extract_tiles beside the loop that people write, and others")
    _arguments(
        tiles,
        engine="same, adaptive-1.5, adaptive-3, plain",
        peers="sequential, sequential-scale-1, processes, processes-scale-1, rioxarray, odc-geo, gdalwarp",
    )
    grid = tiles.add_argument_group("tiles")
    grid.add_argument("--tile-size", type=int, default=4096, metavar="PIXELS", help="(4096)")
    grid.add_argument("--overlap", type=int, default=0, metavar="PIXELS", help="(0)")
    grid.add_argument("--target-crs", default="EPSG:4326", metavar="CRS", help="(EPSG:4326)")
    grid.add_argument("--windows", action="store_true", help="in the source's own CRS: nothing is warped")
    return parser


def _arguments(command: argparse.ArgumentParser, *, engine: str, peers: str) -> None:
    what = command.add_argument_group("sources")
    what.add_argument(
        "--case", nargs="+", action="extend", default=[], metavar="NAME", help=f"of {', '.join(CASES)} (all)"
    )
    what.add_argument("--source", type=Path, metavar="FILE", help="a raster of yours, instead or as well")
    what.add_argument("--megabytes", type=positive, default=1000.0, help="of a case, uncompressed (1000)")
    what.add_argument("--source-layout", choices=("striped", "tiled"), default="striped")
    what.add_argument(
        "--source-compress", choices=("deflate", "lzw", "zstd"), help="the case's own codec (none)"
    )
    what.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    what.add_argument(
        "--inputs",
        type=Path,
        default=cache_folder(),
        metavar="FOLDER",
        help="where cases are kept, and outputs made",
    )
    how = command.add_argument_group("options")
    how.add_argument("--codec", type=str.upper, choices=CODECS, default="DEFLATE", help="(deflate)")
    how.add_argument("--level", type=int, help="of DEFLATE or ZSTD, by GDAL's count (GDAL's default)")
    how.add_argument(
        "--size-tolerance",
        type=positive,
        nargs="+",
        default=list(_TOLERANCES),
        metavar="SHARE",
        help="an adaptive variant each, with DEFLATE (0.015 0.03)",
    )
    how.add_argument("--threads", type=int, default=usable_cores(), help="(all cores)")
    how.add_argument("--rounds", type=int, default=3, help="runs of each method (3)")
    how.add_argument("--engine", nargs="*", metavar="NAME", help=f"of {engine}")
    how.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help=f"of {peers}",
    )
    how.add_argument("--scaling", action="store_true", help="also the engine on one thread beside all")
    how.add_argument("--timeout-minutes", type=positive, default=30.0, help="of one run (30)")
    out = command.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="FILE")
    out.add_argument("--markdown", type=Path, metavar="FILE")
    out.add_argument("--plot", type=Path, metavar="FILE", help="a PNG")


def positive(text: str) -> float:
    """Parse an argument that is a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def cache_folder() -> Path:
    """Return the default folder of the cases."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gdaltools-benchmarks"


def _encoding(args: argparse.Namespace) -> Encoding:
    """Return the options shared by all methods, as far as they do not depend on the source."""
    codec = cast(Codec, args.codec)
    level = _LEVELS[codec] if args.level is None else args.level
    if args.level is not None:
        if codec not in _LEVEL_RANGES:
            raise InvalidParameter(f"--level {args.level}: {codec} has no levels")
        low, high = _LEVEL_RANGES[codec]
        if not low <= args.level <= high:
            raise InvalidParameter(f"--level {args.level} is not from {low} to {high}, as {codec} has them")
    for option, least in (("threads", 1), ("rounds", 1)):
        if getattr(args, option) < least:
            raise InvalidParameter(f"--{option} {getattr(args, option)} is less than {least}")
    return Encoding(codec, level, predictor=2 if codec != "NONE" else 1)


def _predictor(codec: str, dtype: str) -> Literal[1, 2, 3]:
    """Return the predictor that GDAL's PREDICTOR=YES selects."""
    if codec == "NONE":
        return 1
    return 3 if np.dtype(dtype).kind == "f" else 2


def _methods(args: argparse.Namespace, encoding: Encoding) -> Any:
    names = {"engine": args.engine, "peers": args.peers}
    choose = tile_methods if args.command == "tiles" else methods
    return choose(encoding, size_tolerances=args.size_tolerance, **names)


def _work(args: argparse.Namespace) -> Work:
    if args.command == "cog":
        return CogWork()
    crs = None if args.windows else args.target_crs
    return TilesWork(args.tile_size, args.overlap, crs, args.inputs)


def _plan(args: argparse.Namespace, encoding: Encoding, source: Source) -> Plan:
    fitting = replace(encoding, predictor=_predictor(encoding.codec, source.dtype))
    return Plan(
        methods=_methods(args, fitting),
        encoding=fitting,
        rounds=args.rounds,
        threads=args.threads,
        folder=args.inputs,
        timeout_seconds=60 * args.timeout_minutes,
        scaling=args.scaling,
        work=_work(args),
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments as JSON can hold them; paths are reduced to their names."""
    return {
        name: value.name if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name != "inputs"
    }


def _save(report: Report, args: argparse.Namespace) -> None:
    if args.json is not None:
        args.json.write_text(report.model_dump_json(indent=2))
    if args.markdown is not None:
        args.markdown.write_text(to_markdown(report))
    if args.plot is not None:
        plot(report, args.plot)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
