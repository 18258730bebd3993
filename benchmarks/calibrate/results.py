"""A folder of results: the store, and everything that can be derived from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.calibrate import plots
from benchmarks.calibrate.answer import WORKER_TASKS, Answer, Target, answer, largest_of
from benchmarks.calibrate.fit import Fitted, fit
from benchmarks.calibrate.misrouting import JOBS, examples, misrouted, simulated_jobs
from benchmarks.calibrate.report import Findings, report_of
from benchmarks.calibrate.store import FILE_NAME, Contents, Store
from benchmarks.compare.results import Report
from benchmarks.compare.tables import sections as comparison
from benchmarks.errors import StoreError
from benchmarks.pages import Picture, Table, pictures, to_html, to_markdown
from gdaltools.cost.calibration import Calibration

CALIBRATION, ENVIRONMENT, MARKDOWN, PAGE = "calibration.json", "routing.env", "report.md", "report.html"
PEERS, PROFILES = "peers.json", "profiles"
_TITLE = "Thresholds for routing"


@dataclass(frozen=True)
class Targets:
    """The function app that the thresholds are for, and the worker that takes the other tasks."""

    function_app: Target
    worker: Target


@dataclass(frozen=True)
class Results:
    """The folder that a sitting writes to."""

    folder: Path

    @property
    def store(self) -> Store:
        """The folder's store of runs."""
        return Store(self.folder / FILE_NAME)

    def conclude(self, targets: Targets, *, note: str, say: Callable[[str], None]) -> tuple[Fitted, Answer]:
        """Fit the store's runs, and write calibration, settings and report.

        Raises
        ------
        TooFewRuns
            There are too few runs for any model.
        StoreError
            The store cannot be read, or the folder cannot be written to.
        """
        contents = self.store.contents()
        for problem in contents.problems:
            say(problem)
        fitted = fit(contents, note=note)
        found = answer(targets.function_app, fitted.calibration)
        whole = fitted.calibration.model_copy(update={"thresholds": found.thresholds})
        sections = report_of(self._findings(contents, fitted, found, targets))
        texts = {
            CALIBRATION: as_json(whole),
            ENVIRONMENT: found.environment_file(),
            MARKDOWN: to_markdown(_TITLE, sections),
            PAGE: to_html(_TITLE, sections),
        }
        try:
            for name, text in texts.items():
                (self.folder / name).write_text(text)
            for picture in pictures(sections):
                (self.folder / f"{picture.name}.png").write_bytes(picture.png)
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be written to: {error.strerror}") from error
        return Fitted(whole, fitted.notes, fitted.residuals), found

    def _findings(self, contents: Contents, fitted: Fitted, found: Answer, targets: Targets) -> Findings:
        ratios = [ratio for _, ratio, _ in fitted.residuals.get("create_cog", ())]
        jobs = simulated_jobs(targets.function_app, fitted.calibration, ratios)
        return Findings(
            contents=contents,
            fitted=fitted,
            answer=found,
            worker_target=str(targets.worker),
            worker=largest_of(targets.worker, WORKER_TASKS, fitted.calibration),
            jobs=JOBS,
            misrouted=tuple(misrouted(jobs, found)),
            examples=tuple(examples(targets.function_app, fitted.calibration)),
            peers=tuple(self._peers()),
            profiles=tuple(self._profiles()),
        )

    def _peers(self) -> Iterator[str | Table | Picture]:
        path = self.folder / PEERS
        if path.exists():
            for section in comparison(Report.model_validate_json(path.read_text())):
                yield from (f"{section.title}.", *section.parts)

    def _profiles(self) -> list[Picture]:
        found = []
        for path in sorted((self.folder / PROFILES).glob("*.json")):
            profile = json.loads(path.read_text())
            name = profile["cell"]
            png = plots.timeline([tuple(point) for point in profile["timeline"]], name)
            caption = f"Memory over time: {name}; where its time went is in {PROFILES}/{path.stem}.svg."
            found.append(Picture(f"memory-{path.stem}", png, caption))
        return found


def as_json(calibration: Calibration) -> str:
    """Return a calibration in the form of its JSON file."""
    return calibration.model_dump_json(indent=2) + "\n"
