"""The command line: ``python -m gdaltools info|cog|tiles|validate|estimate``.

Results go to stdout (``--json`` for programs), progress and errors to stderr. The exit code is 0 for success,
1 if the answer is no (not a valid COG, or one of many files failed), 2 for wrong usage, 3 for a missing or
unusable input, 4 if storage or something unforeseen failed, so that a retry may help, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pydantic import BaseModel

from gdaltools.errors import (
    CorruptRaster,
    GdalToolsError,
    InvalidParameter,
    SourceNotFound,
    TargetExists,
    UnsupportedRaster,
)
from gdaltools.runtime.text import one_line, printable

OK, NO, USAGE, BAD_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130

# The exit code if the reader of stdout goes away: 128 + SIGPIPE, as in a shell.
_BROKEN_PIPE = 141
# GDAL cannot be interrupted inside a call: after this time the process ends without waiting for it.
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class _Answer:
    """A command's result, and whether the answer is a yes."""

    title: str
    result: Any
    good: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has printed usage or help
        return int(end.code or 0)
    try:
        with _ending_soon_after_interrupt():
            answer: _Answer = arguments.run(arguments)
            _print(answer, as_json=arguments.json)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _complain("interrupted: nothing was left half-written", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except GdalToolsError as error:
        return _complain(str(error), _exit_code(error))
    except Exception as error:  # noqa: BLE001 - the border: a person gets one line, not a traceback
        return _complain(f"unexpected {type(error).__name__}: {error}", FAILED)
    return OK if answer.good else NO


def _exit_code(error: GdalToolsError) -> int:
    if isinstance(error, (InvalidParameter, TargetExists)):
        return USAGE
    if isinstance(error, (SourceNotFound, UnsupportedRaster, CorruptRaster)):
        return BAD_INPUT
    return FAILED


def _complain(text: str, code: int) -> int:
    print(f"gdaltools: {one_line(text)}", file=sys.stderr)
    return code


def _print(answer: _Answer, *, as_json: bool) -> None:
    if as_json:
        print(_to_json(answer.result))
        return
    text = printable(str(answer.result))
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    # Text, not markup, so that square brackets in a file's metadata are printed unchanged.
    colour = "green" if answer.good else "red"
    Console().print(Panel(Text(text), title=Text(printable(answer.title)), border_style=colour, expand=False))


def _to_json(result: Any) -> str:
    if isinstance(result, BaseModel):
        return result.model_dump_json(indent=2)
    return json.dumps(result, indent=2, default=str)


@contextmanager
def _ending_soon_after_interrupt() -> Iterator[None]:
    """Let Ctrl-C unwind the command, and end the process if GDAL prevents that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(signum: int, frame: FrameType | None) -> None:
        timer = threading.Timer(_GRACE_SECONDS, os._exit, (INTERRUPTED,))
        timer.daemon = True
        timer.start()
        timers.append(timer)
        raise KeyboardInterrupt

    timers: list[threading.Timer] = []
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for timer in timers:
            timer.cancel()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gdaltools",
        description="Huge rasters into tiles and Cloud Optimized GeoTIFFs.",
        epilog="Sources and targets are local paths or abfs://container/blob. Exit codes: 0 ok, 1 the answer "
        "is no, 2 wrong usage, 3 bad or missing input, 4 storage or unforeseen, 130 interrupted.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "info", _run_info, "what a raster is")
    _cog(_command(commands, "cog", _run_cog, "rasters into Cloud Optimized GeoTIFFs", many=True))
    _tiles(_command(commands, "tiles", _run_tiles, "a raster into tiles of one grid"))
    _validate(_command(commands, "validate", _run_validate, "whether a file is a valid COG, and why not"))
    _estimate(
        _command(commands, "estimate", _run_estimate, "how long an operation takes, and how much memory")
    )
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], _Answer], text: str, *, many: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text.capitalize() + "."
    )
    command.set_defaults(run=run)
    where = "local path or abfs://container/blob"
    if many:
        where += "; several, or a pattern in quotes ('FOLDER/**/*.tif'), where DST is a folder"
        command.add_argument("src", metavar="SRC", nargs="+", help=where)
    else:
        command.add_argument("src", metavar="SRC", help=where)
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    return command


def _target(command: argparse.ArgumentParser, metavar: str, text: str) -> None:
    command.add_argument("dst", metavar=metavar, help=text)
    command.add_argument("--overwrite", action="store_true", help="replace what exists")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _progress(arguments: argparse.Namespace) -> Any:
    return False if arguments.quiet else "auto"


def _run_info(arguments: argparse.Namespace) -> _Answer:
    from gdaltools.raster.info import inspect

    info = inspect(arguments.src)
    return _Answer(info.location, info)


def _cog(command: argparse.ArgumentParser) -> None:
    _target(command, "DST", "the COG to write; for many, the folder or prefix, with a slash at its end")
    command.add_argument(
        "--force", action="store_true", help="of many: make also those that are whole already"
    )
    command.add_argument("--no-reuse", action="store_true", help="of many: encode also what is encoded so")
    _cog_options(command, _COG_OPTIONS)


# The options of `CogOptions` that the command line has; those not given have the defaults there.
_COG_OPTIONS: dict[str, dict[str, Any]] = {
    "profile": {"metavar": "NAME", "help": "analysis (default), fast, archive or visualization"},
    "codec": {"metavar": "NAME", "help": "DEFLATE, ZSTD, LZW, LERC, JPEG, WEBP, NONE, ..."},
    "level": {"type": int, "metavar": "N", "help": "of DEFLATE or ZSTD, as GDAL counts it"},
    "size_tolerance": {"type": float, "metavar": "SHARE", "help": "of DEFLATE, for speed; default 0.015"},
    "quality": {"type": int, "metavar": "1-100", "help": "of JPEG and WEBP; default 85"},
    "overview_resampling": {"metavar": "NAME", "help": "average, mode, nearest, ..."},
    "raster_type": {"metavar": "NAME", "help": "rgb, rgba, dem, categorical, multispectral, nir"},
    "target_crs": {"metavar": "CRS", "help": "warp to this CRS, for example EPSG:4326"},
    "input_crs": {"metavar": "CRS", "help": "the source's CRS, where the file does not say"},
    "max_z_error": {"type": float, "metavar": "VALUE", "help": "of LERC"},
    "blocksize": {"type": int, "metavar": "PIXELS", "help": "a multiple of 16; default 512"},
    "interleave": {"metavar": "NAME", "help": "pixel (default) or band"},
    "overviews": {"metavar": "NAME", "help": "build (default), keep or none"},
    "reproject_resampling": {"metavar": "NAME", "help": "bilinear, cubic, nearest, ..."},
    "sparse": {"action": "store_true", "help": "leave out blocks without data"},
    "statistics": {"action": "store_true", "help": "store each band's exact statistics"},
    "tms": {"metavar": "NAME", "help": "align to a tiling scheme, as WebMercatorQuad"},
    "access_tier": {"metavar": "NAME", "help": "in Azure: hot, cool, cold or archive"},
}
_TILE_COG_OPTIONS = ("profile", "codec", "level", "size_tolerance", "quality", "overview_resampling")


def _cog_options(command: argparse.ArgumentParser | argparse._ArgumentGroup, names: Iterable[str]) -> None:
    for name in names:
        command.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **_COG_OPTIONS[name])


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return those options that the command line has a value for."""
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _run_cog(arguments: argparse.Namespace) -> _Answer:
    options = _given(arguments, _COG_OPTIONS)
    if _means_many(arguments):
        from gdaltools.cog.batch.create import create_cogs

        made = create_cogs(
            arguments.src,
            arguments.dst,
            reuse=not arguments.no_reuse,
            force=arguments.force,
            overwrite=arguments.overwrite,
            progress=_progress(arguments),
            **options,
        )
        return _Answer("COGs", made, good=bool(made))
    from gdaltools.cog.create import create_cog

    for name in ("force", "no_reuse"):
        if getattr(arguments, name):
            raise InvalidParameter(f"--{name.replace('_', '-')} is for many files: DST must end with a slash")
    result = create_cog(
        arguments.src[0],
        arguments.dst,
        overwrite=arguments.overwrite,
        progress=_progress(arguments),
        **options,
    )
    return _Answer("COG", result)


def _means_many(arguments: argparse.Namespace) -> bool:
    """Return whether DST is a folder; refuse a pattern or several sources if it is not."""
    from gdaltools.cog.batch.pairs import is_pattern
    from gdaltools.storage import locate

    dst = arguments.dst
    place = None if dst.endswith("/") else locate(dst)
    folder = place is None or not place.name or (place.path is not None and place.path.is_dir())
    if not folder and (len(arguments.src) > 1 or is_pattern(arguments.src[0])):
        raise InvalidParameter(f"{dst} is to hold many COGs: end it with a slash, '{dst}/'")
    return folder


def _tiles(command: argparse.ArgumentParser) -> None:
    _target(command, "DST_FOLDER", "the folder or prefix that the tiles are written to")
    _cog_options(command, ["input_crs"])
    command.add_argument("--tile-size", type=int, metavar="PIXELS", help="default: about 450 MB a tile")
    command.add_argument("--overlap", type=int, metavar="PIXELS", help="default: 512")
    command.add_argument("--target-crs", metavar="CRS", help="default: EPSG:4326")
    command.add_argument("--tile-mb", type=float, metavar="MB", help="tiles of at most so much, uncompressed")
    command.add_argument("--tms", metavar="NAME", help="on the grid of a tiling scheme, as WebMercatorQuad")
    command.add_argument("--zoom", type=int, metavar="N", help="of --tms; default: the closest level")
    command.add_argument("--scheme", metavar="FILE", help="use this tiling scheme (GeoJSON) instead")
    command.add_argument(
        "--resume", action="store_true", help="keep the tiles that an interrupted run had finished"
    )
    command.add_argument("--tiles", nargs="+", metavar="ID", help="only these, as tile_0_3 tile_1_3")
    command.add_argument("--area", metavar="FILE", help="only tiles that touch this area (GeoJSON)")
    command.add_argument("--skip-empty", action="store_true", help="leave out tiles without any data")
    command.add_argument("--resampling", metavar="NAME", help="bilinear, cubic, nearest, ...")
    command.add_argument("--plan", action="store_true", help="say how it would be done, and do nothing")
    command.add_argument("--as-cog", action="store_true", help="write finished COGs, in the same pass")
    cogs = command.add_argument_group("with --as-cog")
    _cog_options(cogs, _TILE_COG_OPTIONS)


_TILES = (
    "tiles",
    "area",
    "resampling",
    "input_crs",
    "as_cog",
    *_TILE_COG_OPTIONS,
)


def _run_tiles(arguments: argparse.Namespace) -> _Answer:
    from gdaltools.tiles.extract.create import extract_tiles, plan_extraction
    from gdaltools.tiles.generate import generate_tiling_scheme
    from gdaltools.tiles.scheme import TilingScheme

    stated = [
        f"--{name.replace('_', '-')}"
        for name in ("tile_size", "tile_mb", "overlap", "target_crs", "tms", "zoom")
        if getattr(arguments, name) is not None
    ]
    if arguments.scheme is not None and stated:
        raise InvalidParameter(f"--scheme says all about the tiles already: leave out {', '.join(stated)}")
    if arguments.scheme is not None:
        scheme = TilingScheme.read(arguments.scheme)
    else:
        scheme = generate_tiling_scheme(
            arguments.src,
            arguments.tile_size,
            512 if arguments.overlap is None else arguments.overlap,
            arguments.target_crs,
            tile_mb=arguments.tile_mb,
            tms=arguments.tms,
            zoom=arguments.zoom,
            **_given(arguments, ("input_crs",)),
        )
    options = _given(arguments, _TILES)
    if arguments.plan:
        return _Answer("plan", str(plan_extraction(arguments.src, scheme, **options)))
    result = extract_tiles(
        arguments.src,
        scheme,
        arguments.dst,
        skip_empty=arguments.skip_empty,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        progress=_progress(arguments),
        **options,
    )
    return _Answer("tiles", result)


def _validate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--lenient", action="store_true", help="warnings do not make a COG invalid")


def _run_validate(arguments: argparse.Namespace) -> _Answer:
    from gdaltools.cog.validate import validate_cog

    report = validate_cog(arguments.src, strict=not arguments.lenient)
    return _Answer(report.location, report, good=report.valid)


def _estimate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--operation", default="create_cog", help="create_cog (default) or extract_tiles")
    command.add_argument("--profile", default="analysis", metavar="NAME", help="of a COG (analysis)")
    command.add_argument("--target-crs", metavar="CRS", help="as cog and tiles take it")
    command.add_argument("--cores", type=int, help="default: those of this machine")


def _run_estimate(arguments: argparse.Namespace) -> _Answer:
    from gdaltools.cost.estimation import estimate

    found = estimate(
        arguments.src,
        arguments.operation,
        profile=arguments.profile,
        target_crs=arguments.target_crs,
        cores=arguments.cores,
    )
    return _Answer("estimate", found)
