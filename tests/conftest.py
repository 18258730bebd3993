import pytest
from hypothesis import settings

# It runs in the Azure CLI's own environment.
collect_ignore = ["support/az_parser.py"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("usual", deadline=None)
settings.load_profile("usual")
# pytest --hypothesis-profile=long
settings.register_profile("long", max_examples=2000, stateful_step_count=100, deadline=None)

# Files that take longest, many of them waiting for locks and leases to end, begin first: else the last of
# them runs alone.
LONGEST = (
    "test_conformance.py",
    "test_faults.py",
    "test_dead_letter_commands.py",
    "test_chaos.py",
    "test_warp.py",
    "test_resume.py",
    "test_crashes.py",
    "test_dead_letters.py",
    "test_job.py",
    "test_cog.py",
    "test_commands.py",
    "test_secrets.py",
    "test_embedded_postgres.py",
    "test_calibration_run.py",
    "test_run_once.py",
    "test_notebooks.py",
    "test_kernel.py",
    "test_compare.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take; `--no-loadscope-reorder` has them handed out in this order."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))
