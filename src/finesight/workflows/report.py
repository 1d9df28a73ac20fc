"""The report of a run: curves and one page, rebuilt from the run directory's files alone."""

from pathlib import Path

from finesight.core.errors import RunError
from finesight.core.rundir import RunDirectory
from finesight.runtime.files import write_bytes, write_text


def build_report(path: Path) -> Path:
    """Write `report.html`, `loss_curve.png` and `timing_curve.png` of the run at `path`; returns the page."""
    from finesight.reports.page import render
    from finesight.reports.plots import loss_curve, timing_curve
    from finesight.reports.tables import numbers

    run = RunDirectory(path)
    if not run.recipe.is_file():
        raise RunError(
            "this is no run directory: it has no recipe.yaml", str(path), "give the directory of a run"
        )
    write_bytes(run.loss_curve, loss_curve(numbers(run.losses)))
    write_bytes(run.timing_curve, timing_curve(numbers(run.timing)))
    write_text(run.report, render(path))
    return run.report
