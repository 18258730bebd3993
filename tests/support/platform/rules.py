"""What a platform may expect of a worker (protocol.md §2 to §5): pure functions that name each deviation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from tests.support.platform.messages import FUNCTION_APP, Received

_SIGNAL_FIELDS = {
    "message_type": str,
    "job_id": str,
    "job_type": str,
    "completed_stage": int,
    "completed_at": str,
    "completed_by_app": str,
    "correlation_id": str,
}
_LONGEST_CORRELATION = 16
_CLOCK_SKEW = timedelta(seconds=5)

# §5, "Stage results, keys exact"; the protocol leaves the list for the last stage open.
_RESULT_KEYS = {
    "generate_tiling_scheme": "tiling_scheme_blob tiling_scheme_container total_tiles grid source_blob"
    " source_container source_crs target_crs target_bounds target_dimensions target_resolution"
    " processing_time_seconds raster_metadata",
    "extract_tiles": "tiles_blob_prefix tiles_container total_tiles tile_blobs source_blob source_container"
    " tiling_scheme_blob source_crs raster_metadata extraction_time_seconds upload_time_seconds"
    " processing_time_seconds",
    "create_cog": "cog_blob cog_container cog_tier storage_tier source_blob source_container"
    " reprojection_performed source_crs target_crs bounds_4326 shape size_mb compression jpeg_quality"
    " tile_size overview_levels overview_resampling reproject_resampling raster_type"
    " processing_time_seconds tier_profile",
    "create_mosaicjson": "mosaicjson_blob mosaicjson_url tile_count bounds minzoom maxzoom quadkey_count"
    " center cog_blobs cog_container",
    "create_stac_collection": "collection_id stac_id tile_count items_created items_failed spatial_extent"
    " mosaicjson_url pgstac_id search_id viewer_url",
}
_INNER_KEYS = {
    ("generate_tiling_scheme", "grid"): "rows cols tile_size_pixels overlap_pixels effective_tile_size"
    " total_tiles overlap_percentage cog_blocksize",
    ("generate_tiling_scheme", "raster_metadata"): "band_count actual_band_count data_type detected_type"
    " detection_confidence auto_band_names used_band_names",
}
_FLAT = {"create_mosaicjson", "create_stac_collection"}
_OPEN = {"create_stac_collection"}


def signal_deviations(received: Received, signal: Mapping[str, Any]) -> list[str]:
    """Return every deviation of a stage_complete from §3, whatever the job's state."""
    return list(_signal_deviations(received, signal))


def _signal_deviations(received: Received, signal: Mapping[str, Any]) -> Iterator[str]:
    if missing := _SIGNAL_FIELDS.keys() - signal.keys():
        yield f"stage_complete lacks {sorted(missing)}"
    if unknown := signal.keys() - _SIGNAL_FIELDS.keys():
        yield f"stage_complete has {sorted(unknown)} beyond the protocol"
    wrong = {
        name: signal[name]
        for name, kind in _SIGNAL_FIELDS.items()
        if name in signal and type(signal[name]) is not kind
    }
    if wrong:
        yield f"stage_complete has values of another type: {wrong}"
    if missing or wrong:
        return
    if not re.fullmatch("[0-9a-f]{64}", signal["job_id"]):
        yield f"job_id {signal['job_id']!r} is not 64 hexadecimal digits"
    if not 1 <= signal["completed_stage"] <= 100:
        yield f"completed_stage {signal['completed_stage']} is outside 1 to 100"
    if not signal["job_type"] or not signal["completed_by_app"]:
        yield "job_type and completed_by_app must not be empty"
    yield from _time_deviations(signal["completed_at"])
    if received.content_type != "application/json":
        yield f"content type {received.content_type!r} is not application/json"
    if received.session_id is not None:
        yield f"the message has session {received.session_id!r}"
    if len(signal["correlation_id"]) > _LONGEST_CORRELATION:
        yield f"correlation_id {signal['correlation_id']!r} is longer than {_LONGEST_CORRELATION}"
    expected = f"docker-{signal['job_id'][:8]}"
    if signal["completed_by_app"] != FUNCTION_APP and signal["correlation_id"] != expected:
        yield f"correlation_id {signal['correlation_id']!r} of a worker is not {expected!r}"


def _time_deviations(text: str) -> Iterator[str]:
    try:
        completed_at = datetime.fromisoformat(text)
    except ValueError:
        yield f"completed_at {text!r} is not ISO 8601"
        return
    if completed_at.utcoffset() != timedelta(0):
        yield f"completed_at {text!r} is not in UTC with its offset"
    elif completed_at > datetime.now(UTC) + _CLOCK_SKEW:
        yield f"completed_at {text!r} is in the future"


def state_deviations(
    received: Received,
    signal: Mapping[str, Any],
    job: Mapping[str, Any] | None,
    tasks: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return everything that makes a well-formed stage_complete wrong at this moment.

    Parameters
    ----------
    received, signal
        The message and its body, without deviations of their own.
    job
        The job's row.
    tasks
        The rows of the stage that the signal names.
    """
    if job is None:
        return ["the job does not exist"]
    if job["status"] != "processing":
        return [f"the job is {job['status']}"]
    if signal["completed_stage"] != job["stage"]:
        return [f"the job is in stage {job['stage']}"]
    found = []
    if signal["job_type"] != job["job_type"]:
        found.append(f"the job's type is {job['job_type']!r}, not {signal['job_type']!r}")
    if not tasks:
        found.append("the stage has no tasks")
    found += [
        f"task {task['task_id']} is {task['status']}" for task in tasks if task["status"] != "completed"
    ]
    if signal["completed_by_app"] not in {task["executed_by_app"] for task in tasks}:
        found.append(f"no task of the stage was executed by {signal['completed_by_app']!r}")
    if signal["completed_by_app"] != FUNCTION_APP:
        # A resubmitted job must use another id: the broker remembers that of the first run.
        again = "" if job["resubmissions"] == 0 else r"(:\d+)?"
        expected = f"{job['job_id']}:{job['stage']}:stage_complete{again}"
        if not re.fullmatch(expected, received.message_id or ""):
            found.append(f"the message's id {received.message_id!r} is not {expected!r}")
    return found


def task_deviations(task: Mapping[str, Any]) -> list[str]:
    """Return every deviation of a completed task's row from §2, §4 and §5."""
    return [f"task {task['task_id']}: {text}" for text in _task_deviations(task)]


def _task_deviations(task: Mapping[str, Any]) -> Iterator[str]:
    times = [task["created_at"], task["execution_started_at"], task["heartbeat"]]
    if None in times:
        yield "execution_started_at or heartbeat is empty"
    else:
        times.append(datetime.now(UTC).replace(tzinfo=None))
        if any(earlier > later + _CLOCK_SKEW for earlier, later in pairwise(times)):
            yield f"created, started, heartbeat, now are not in order, or not in UTC: {times}"
    if task["error_details"] is not None:
        yield f"completed, with error_details {task['error_details']!r}"
    kind = task["task_type"]
    if kind not in _RESULT_KEYS:
        return
    envelope = task["result_data"] or {}
    if envelope.get("success") is not True:
        yield f"completed, with result_data {envelope!r}"
        return
    result = dict(envelope) if kind in _FLAT else envelope.get("result")
    if not isinstance(result, dict) or (kind not in _FLAT and envelope.keys() != {"success", "result"}):
        yield f"result_data's keys are {sorted(envelope)}"
        return
    if kind in _FLAT:
        del result["success"]
    yield from _key_deviations("the result", result, _RESULT_KEYS[kind], is_open=kind in _OPEN)
    for (owner, name), keys in _INNER_KEYS.items():
        if owner == kind and isinstance(result.get(name), dict):
            yield from _key_deviations(name, result[name], keys, is_open=False)


def _key_deviations(what: str, found: Mapping[str, Any], keys: str, *, is_open: bool) -> Iterator[str]:
    expected = set(keys.split())
    if missing := expected - found.keys():
        yield f"{what} lacks {sorted(missing)}"
    if not is_open and (unknown := found.keys() - expected):
        yield f"{what} has {sorted(unknown)} beyond the protocol"
