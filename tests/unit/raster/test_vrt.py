"""VRTs where GDAL's bindings are missing; deploy/image/check.py writes them where they are installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import gdaltools as gt
from gdaltools.errors import BindingsMissing
from tests.support.rasters import smooth, write_raster

HAVE_BINDINGS = importlib.util.find_spec("osgeo") is not None


@pytest.mark.skipif(HAVE_BINDINGS, reason="the bindings are here")
def test_without_bindings_it_is_said_what_to_do(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 20, 30))
    with pytest.raises(BindingsMissing, match=r"environment\.yml"):
        gt.create_vrt([source], tmp_path / "all.vrt")
    assert not (tmp_path / "all.vrt").exists()


def test_of_another_gdal_they_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "packages" / "osgeo"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "gdal.py").write_text("__version__ = '1.2.3'")
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in ("osgeo", "osgeo.gdal"):  # restored at the end, even to being absent
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BindingsMissing, match=r"GDAL 1\.2\.3"):
        gt.create_vrt(["a.tif"], tmp_path / "all.vrt")
