"""The status page in a browser: a job to its end, a failure and its reason, a redrive; in light and dark.

STATUS_SCREENSHOTS names a folder for screenshots.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.notebook.chromium import chromium
from tests.support.rasters import smooth, write_raster
from worker.service.embedded import Standalone

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

JOB = "process_large_raster_v2"
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
PATIENCE = 60_000

# Contrast of every piece of text with its background (WCAG 2.2, 1.4.3), by the browser's own colours.
CONTRASTS = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return rgb(getComputedStyle(document.body).backgroundColor);
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.nodeValue.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, noscript, button")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${walker.currentNode.nodeValue.trim()}: ${ratio.toFixed(2)}`);
  }
  return poor;
}"""

# The part of accessibility that a program can check: names, landmarks, heading order, unique ids.
FAULTS = """() => {
  const faults = [];
  if (document.documentElement.lang !== "en") faults.push("no language");
  for (const name of ["header", "main", "h1"]) {
    if (document.querySelectorAll(name).length !== 1) faults.push(`not one ${name}`);
  }
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) faults.push(`${heading.textContent} skips a level`);
    level = own;
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push("an id is there twice");
  for (const e of document.querySelectorAll("[aria-labelledby]")) {
    if (!document.getElementById(e.getAttribute("aria-labelledby"))) faults.push("a label is not there");
  }
  for (const e of document.querySelectorAll("button, a, summary, progress, [role=img], [role=region]")) {
    const named = e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim();
    if (!named) faults.push(`${e.outerHTML.slice(0, 80)} has no name`);
  }
  for (const e of document.querySelectorAll("table")) {
    if (!e.caption) faults.push("a table has no caption");
    if (e.querySelectorAll("th:not([scope])").length) faults.push("a heading of a table has no scope");
  }
  for (const e of document.querySelectorAll("button, summary, a")) {
    const box = e.getBoundingClientRect();
    const inText = getComputedStyle(e).display === "inline";
    if (e.checkVisibility() && !inText && box.height < 24) faults.push(`${e.textContent} is too small`);
  }
  return faults;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    with Standalone(tmp_path_factory.mktemp("blobs"), settings={"worker_concurrency": 2}) as made:
        yield made


@pytest.fixture
def bronze(worker: Standalone) -> Path:
    return Path(os.environ["GDALTOOLS_BLOB_ROOT"]) / "bronze-rasters"


@contextmanager
def opened(browser: Any, url: str, **settings: Any) -> Iterator[Any]:
    """Open a page; on exit, check that its console is empty and that it called no other server."""
    context = browser.new_context(**{"viewport": DESKTOP, **settings})
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert said == []
    assert [each for each in asked if not each.startswith((url, "data:"))] == []


def parameters(name: str, **more: Any) -> dict[str, Any]:
    return {"container_name": "bronze-rasters", "blob_name": name, "overlap": 64, **more}


def test_a_job_is_watched_from_submission_to_completion(
    browser: Any, worker: Standalone, bronze: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 9000, 8000), dtype="uint8")
    write_raster(bronze / "noise.tif", noise)
    with opened(browser, worker.url) as page:
        page.get_by_text("Live", exact=True).wait_for(timeout=PATIENCE)
        page.get_by_text("Nothing runs.").wait_for(timeout=PATIENCE)
        page.evaluate("window.stays = true")
        job = worker.client.submit(JOB, parameters("noise.tif", tile_size=1024))
        row = page.locator(f"#jobs li[data-key='{job.job_id}']")
        row.get_by_text("processing").wait_for(timeout=PATIENCE)
        running = page.locator("#running li").first
        running.locator("progress").wait_for(timeout=PATIENCE)
        running.get_by_text("MB of memory").wait_for(timeout=PATIENCE)
        picture(page, "running")
        row.locator("summary").click()
        row.locator("summary").focus()
        row.get_by_text("completed").wait_for(timeout=PATIENCE)
        row.get_by_text("stage 5 of 5").wait_for(timeout=PATIENCE)
        assert "stage 5, create_stac_collection" in str(row.locator(".lanes").get_attribute("aria-label"))
        assert row.locator(".lanes svg").count() == 2
        assert row.locator("table").is_visible(), "what was unfolded stays so"
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY", "the focus stays where it was"
        assert page.evaluate("window.stays"), "the page was not loaded anew"


def test_a_failure_is_shown_with_its_reason_and_redriven_by_a_click(
    browser: Any, worker: Standalone, bronze: Path
) -> None:
    (bronze / "broken.tif").write_bytes(b"II*\0 no raster")
    job = worker.client.submit(JOB, parameters("broken.tif"))
    with opened(browser, worker.url) as page:
        reason = "broken.tif has a header that cannot be read"
        page.locator("#failed").get_by_text(reason).wait_for(timeout=PATIENCE)
        page.locator("#jobs").get_by_text(reason).wait_for(timeout=PATIENCE)
        dead_letter = page.locator("#letters li", has_text=reason)
        dead_letter.wait_for(timeout=PATIENCE)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            picture(page, f"desktop-{theme}")
            assert page.evaluate(CONTRASTS) == []
        assert page.evaluate(FAULTS) == []
        (bronze / "broken.tif").unlink()
        write_raster(bronze / "broken.tif", smooth(3, 300, 400))
        dead_letter.get_by_role("button", name="Redrive").click()
        page.locator(".notice").get_by_text("redriven, the task is queued again").wait_for(timeout=PATIENCE)
        picture(page, "redriven")
        page.locator(f"#jobs li[data-key='{job.job_id}']").get_by_text("completed").wait_for(timeout=PATIENCE)
        page.locator("#letters").get_by_text("There are none.").wait_for(timeout=PATIENCE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(
    browser: Any, worker: Standalone, bronze: Path, theme: str
) -> None:
    name = f"a-very-long-name-without-any-space-{'x' * 60}.tif"
    (bronze / name).write_bytes(b"II*\0 no raster")
    worker.client.submit(JOB, parameters(name))
    with opened(browser, worker.url, viewport=PHONE, color_scheme=theme, has_touch=True) as page:
        page.locator("#failed").get_by_text(name).first.wait_for(timeout=PATIENCE)
        page.locator("#letters li").first.wait_for(timeout=PATIENCE)
        picture(page, f"phone-{theme}")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert page.evaluate(CONTRASTS) == []
        assert page.evaluate(FAULTS) == []


def test_without_javascript_everything_is_there(browser: Any, worker: Standalone, bronze: Path) -> None:
    with opened(browser, worker.url, java_script_enabled=False) as page:
        for heading in ("Running", "Waiting", "Failed", "Recent jobs", "Dead letters", "Outbox", "Health"):
            assert page.get_by_role("heading", name=heading, exact=True).is_visible()
        assert page.get_by_role("link", name="reload").is_visible()


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("STATUS_SCREENSHOTS")
    if folder is not None:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
