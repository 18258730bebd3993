"""The command line: ``python -m benchmarks.compare cog|tiles``.

Tables go to stdout, progress to stderr. The exit code is 0 if every engine variant wrote the right file, 1 if
one failed or wrote a wrong one, 2 for wrong usage or a missing package, 130 after Ctrl-C. Errors of peers are
listed in the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np

from benchmarks.child import usable_cores
from benchmarks.command import OK, add_inputs, as_options, now, positive, run_command, say
from benchmarks.compare.comparison import Grid, Plan, compare
from benchmarks.compare.jobs import CODECS, Codec, Encoding
from benchmarks.compare.methods import Output, methods, names_of
from benchmarks.compare.results import Report
from benchmarks.compare.sources.cases import CASES, cases_named
from benchmarks.compare.sources.rasters import Source, given_source, made_source
from benchmarks.compare.tables import as_markdown, failures
from benchmarks.machine import require, this_machine
from gdaltools.errors import InvalidParameter

WRONG = 1

# GDAL's own defaults, written out.
_LEVELS: dict[Codec, int | None] = {"DEFLATE": 6, "ZSTD": 9, "LZW": None, "NONE": None}
_LEVEL_RANGES: dict[Codec, tuple[int, int]] = {"DEFLATE": (1, 12), "ZSTD": (1, 22)}
_TOLERANCES = (0.015, 0.03)
_WARM_UP_MB = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one comparison; return its exit code."""
    return run_command(_parser(), arguments, _main)


def _main(args: argparse.Namespace) -> int:
    report = run(args)
    print(as_markdown(report))
    wrong = list(failures(report))
    for sentence in wrong:
        say(f"WRONG  {sentence}")
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
    require("measuring memory", "psutil")
    encoding = _encoding(args)
    chosen = cases_named(args.case) if args.case or args.source is None else ()
    _plan(args, encoding)  # raises before the first source is generated
    given = None if args.source is None else given_source(args.source)
    report = Report(created=now(), options=as_options(args), machine=this_machine(), cases=())
    sources: list[tuple[Source, Source | None]] = [] if given is None else [(given, None)]
    for case in chosen:
        say(f"{case.name}: writing the source, unless it exists")
        source = made_source(case, megabytes=args.megabytes, folder=args.inputs)
        small = args.megabytes > _WARM_UP_MB
        sources.append(
            (source, made_source(case, megabytes=_WARM_UP_MB, folder=args.inputs) if small else None)
        )
    args.inputs.mkdir(parents=True, exist_ok=True)
    for source, warm_up in sources:
        predictor = _predictor(encoding.codec, source.dtype)
        plan = _plan(args, replace(encoding, predictor=predictor))
        report = report.model_copy(
            update={"cases": (*report.cases, compare(source, plan, warm_up=warm_up, say=say))}
        )
        if args.json is not None:
            args.json.write_text(report.model_dump_json(indent=2))
        if args.markdown is not None:
            args.markdown.write_text(as_markdown(report))
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cog = commands.add_parser("cog", help="create_cog beside GDAL, rio-cogeo, rioxarray and odc-geo")
    _arguments(cog, "cog")
    tiles = commands.add_parser("tiles", help="extract_tiles beside the loop that people write, and odc-geo")
    _arguments(tiles, "tiles")
    grid = tiles.add_argument_group("tiles")
    grid.add_argument("--tile-size", type=int, default=4096, metavar="PIXELS", help="(4096)")
    grid.add_argument("--overlap", type=int, default=0, metavar="PIXELS", help="(0)")
    grid.add_argument("--target-crs", default="EPSG:4326", metavar="CRS", help="(EPSG:4326)")
    grid.add_argument("--windows", action="store_true", help="in the source's own CRS: nothing is warped")
    return parser


def _arguments(command: argparse.ArgumentParser, output: Output) -> None:
    engine, peers = names_of(output)
    what = command.add_argument_group("sources")
    what.add_argument(
        "--case", nargs="+", action="extend", default=[], metavar="NAME", help=f"of {', '.join(CASES)} (all)"
    )
    what.add_argument("--source", type=Path, metavar="FILE", help="a raster of yours, instead or as well")
    what.add_argument("--megabytes", type=positive, default=1000.0, help="of a case, uncompressed (1000)")
    add_inputs(what)
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
    how.add_argument("--engine", nargs="*", metavar="NAME", help=f"of {engine} (all)")
    how.add_argument("--peers", nargs="*", metavar="NAME", help=f"of {peers} (all)")
    how.add_argument("--timeout-minutes", type=positive, default=30.0, help="of one run (30)")
    out = command.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="FILE")
    out.add_argument("--markdown", type=Path, metavar="FILE")


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
    return Encoding(codec, level, predictor=_predictor(codec, "uint8"))


def _predictor(codec: str, dtype: str) -> Literal[1, 2, 3]:
    """Return the predictor that GDAL's PREDICTOR=YES selects."""
    if codec == "NONE":
        return 1
    return 3 if np.dtype(dtype).kind == "f" else 2


def _plan(args: argparse.Namespace, encoding: Encoding) -> Plan:
    grid = None
    if args.command == "tiles":
        grid = Grid(args.tile_size, args.overlap, None if args.windows else args.target_crs)
    return Plan(
        methods=methods(
            args.command,
            encoding,
            size_tolerances=args.size_tolerance,
            engine=args.engine,
            peers=args.peers,
        ),
        encoding=encoding,
        rounds=args.rounds,
        threads=args.threads,
        folder=args.inputs,
        timeout_seconds=60 * args.timeout_minutes,
        grid=grid,
    )
