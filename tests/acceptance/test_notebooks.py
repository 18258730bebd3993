"""The shortest notebook runs from top to bottom; all are stored with their outputs, and with nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notebooks.execute import execute, notebooks

_LARGEST_BYTES = 1_500_000


def test_the_first_notebook_runs_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIEF_WIDTH", "1536")
    ran = execute(notebooks(["01"])[0], folder=tmp_path)
    page = json.dumps(ran)
    assert "valid COG" in page
    assert str(tmp_path) not in page
    assert (tmp_path / "data" / "relief-cog.tif").exists()


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name[:2])
def test_a_notebook_is_kept_with_its_outputs_and_without_the_machine_it_ran_on(path: Path) -> None:
    text = path.read_text()
    document = json.loads(text)
    cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert len(text) < _LARGEST_BYTES
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell["outputs"] for cell in cells)
    for place in (
        "/home/",
        "/root/",
        "/tmp/",
        str(Path(__file__).parents[2]),
        "/Users/",
        "sig=",
        "AccountKey=",
    ):
        assert place not in text
    for output in (each for cell in cells for each in cell["outputs"]):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
