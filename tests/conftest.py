from pathlib import Path

import pytest
from hypothesis import settings

# This script runs in the Azure CLI's own environment.
collect_ignore = ["support/az_parser.py"]

# The duration of an example says more about the machine than about the code.
settings.register_profile("usual", deadline=None)
settings.load_profile("usual")
# pytest --hypothesis-profile=long
settings.register_profile("long", max_examples=2000, stateful_step_count=100, deadline=None)

HERE = Path(__file__).parent

# The slowest files, many of which wait for locks and leases to end, start first: otherwise the last of them
# would run alone.
LONGEST = (
    "acceptance/test_conformance.py",
    "acceptance/test_faults.py",
    "acceptance/test_dead_letter_commands.py",
    "acceptance/test_chaos.py",
    "real_files/test_real_files.py",
    "unit/warp/test_warp.py",
    "unit/tiles/test_resume.py",
    "integration/task/test_crashes.py",
    "integration/queue/test_redriving.py",
    "integration/queue/test_dead_letters.py",
    "integration/queue/test_bus.py",
    "acceptance/test_job.py",
    "unit/cog/test_create.py",
    "unit/cog/test_pixels.py",
    "acceptance/test_commands.py",
    "acceptance/test_secrets.py",
    "integration/local/test_embedded_postgres.py",
    "acceptance/test_calibration_run.py",
    "acceptance/test_run_once.py",
    "acceptance/test_notebooks.py",
    "acceptance/test_kernel.py",
    "acceptance/test_compare.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by their duration; with `--no-loadscope-reorder` they are distributed in this order."""
    ranks = {HERE / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))
