import json
from datetime import UTC, datetime

import pytest

from worker.protocol.messages import (
    MAX_MESSAGE_BYTES,
    InvalidMessage,
    JobMessage,
    StageComplete,
    TaskMessage,
    parse_jobs_queue,
    parse_task,
)

JOB = "0" * 63 + "1"
TASK_EXAMPLE = """{"task_id":"00000000-s2-extract","parent_job_id":"0000000000000000000000000000000000000000000000000000000000000001","job_type":"process_large_raster_v2","task_type":"Extract-Tiles","stage":2,"parameters":{"container_name":"bronze-rasters","blob_name":"scene.tif","tiling_scheme_blob":"scene_tiling_scheme.geojson","tiling_scheme_container":"silver-cogs","output_container":"silver-mosaicjson","job_id":"0000000000000000000000000000000000000000000000000000000000000001","band_names":{"1":"Red","2":"Green","3":"Blue"}},"parent_task_id":null,"retry_count":0,"timestamp":"2025-12-12T12:00:00"}"""  # noqa: E501
STAGE_COMPLETE_EXAMPLE = """{"message_type":"stage_complete","job_id":"0000000000000000000000000000000000000000000000000000000000000001","job_type":"process_large_raster_v2","completed_stage":2,"completed_at":"2025-12-12T12:45:00+00:00","completed_by_app":"gdal-docker-worker","correlation_id":"docker-00000000"}"""  # noqa: E501


def task(**changes):
    return json.dumps(json.loads(TASK_EXAMPLE) | changes)


def without(*fields):
    return json.dumps({key: value for key, value in json.loads(TASK_EXAMPLE).items() if key not in fields})


def test_the_protocols_task_example_is_read():
    message = parse_task(TASK_EXAMPLE.encode())
    assert message.task_type == "extract_tiles"
    assert message.parent_job_id == JOB
    assert message.task_index == "0"
    assert message.timestamp == datetime(2025, 12, 12, 12)
    assert message.parameters["band_names"] == {"1": "Red", "2": "Green", "3": "Blue"}
    assert not message.parameters_in_row


def test_the_protocols_stage_complete_example_is_read_and_written_back_alike():
    message = parse_jobs_queue(STAGE_COMPLETE_EXAMPLE)
    assert isinstance(message, StageComplete)
    assert message.message_id == f"{JOB}:2:stage_complete"
    assert json.loads(message.body()) == json.loads(STAGE_COMPLETE_EXAMPLE)


def test_job_id_is_an_alias_of_parent_job_id():
    message = parse_task(json.dumps(json.loads(without("parent_job_id")) | {"job_id": JOB}))
    assert message.parent_job_id == JOB


def test_parent_job_id_wins_over_its_alias():
    assert parse_task(task(job_id="another")).parent_job_id == JOB


def test_unknown_fields_are_ignored():
    assert parse_task(task(priority=3)).task_id == "00000000-s2-extract"


def test_a_time_with_an_offset_becomes_naive_utc():
    assert parse_task(task(timestamp="2025-12-12T14:00:00+02:00")).timestamp == datetime(2025, 12, 12, 12)


def test_a_task_index_may_be_a_number():
    assert parse_task(task(task_index=7)).task_index == "7"


def test_a_byte_order_mark_is_no_obstacle():
    assert parse_task(b"\xef\xbb\xbf" + TASK_EXAMPLE.encode()).stage == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        ("[1]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "not JSON"),
        (without("task_id"), "task_id: Field required"),
        (without("parameters"), "parameters: Field required"),
        (without("parent_job_id"), "parent_job_id: Field required"),
        (task(task_id=""), "task_id"),
        (task(task_id="x" * 101), "task_id"),
        (task(parent_job_id="x" * 65), "parent_job_id"),
        (task(stage=0), "stage"),
        (task(parameters=None), "parameters"),
        (task(task_type="  "), "task_type"),
        (task(retry_count=-1), "retry_count"),
    ],
)
def test_what_is_not_a_task_is_refused_in_words(body, said):
    with pytest.raises(InvalidMessage, match=said) as caught:
        parse_task(body)
    assert len(str(caught.value)) < 1000


def test_a_task_written_is_read_back_equal():
    message = parse_task(TASK_EXAMPLE)
    assert parse_task(message.body()) == message
    assert "parameters_in_row" not in json.loads(message.body())


def test_parameters_that_do_not_fit_stay_in_the_row():
    big = {"previous_results": [{"cog_blob": f"tile_{i}" * 20} for i in range(5000)]}
    message = TaskMessage(
        task_id="t", parent_job_id=JOB, job_type="j", task_type="create_mosaicjson", stage=4, parameters=big
    )
    assert len(message.body()) < MAX_MESSAGE_BYTES / 100
    read = parse_task(message.body())
    assert read.parameters_in_row
    assert read.parameters == {}


def test_a_job_message_is_read():
    message = parse_jobs_queue(
        json.dumps({"job_id": JOB, "job_type": "j", "parameters": {}, "stage_results": None})
    )
    assert isinstance(message, JobMessage)
    assert (message.stage, message.stage_results, message.correlation_id) == (1, {}, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"job_id": "short"},
        {"job_id": "g" * 64},
        {"stage": 101},
        {"stage": 0},
        {"correlation_id": "x" * 17},
        {"job_type": None},
        {"message_type": "task_complete"},
    ],
)
def test_what_is_not_a_job_is_refused(changes):
    with pytest.raises(InvalidMessage):
        parse_jobs_queue(json.dumps({"job_id": JOB, "job_type": "j", "parameters": {}} | changes))


def test_our_stage_complete_has_what_the_platform_reads():
    signal = StageComplete.of(
        JOB, 2, job_type="j", completed_by="gdal-docker-worker", completed_at=datetime(2025, 1, 1, tzinfo=UTC)
    )
    assert json.loads(signal.body()) == {
        "message_type": "stage_complete",
        "job_id": JOB,
        "job_type": "j",
        "completed_stage": 2,
        "completed_at": "2025-01-01T00:00:00+00:00",
        "completed_by_app": "gdal-docker-worker",
        "correlation_id": "docker-00000000",
    }


def test_a_stage_complete_without_a_job_type_is_refused():
    with pytest.raises(InvalidMessage, match="job_type"):
        parse_jobs_queue(json.dumps(json.loads(STAGE_COMPLETE_EXAMPLE) | {"job_type": None}))
