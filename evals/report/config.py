"""The options of a report."""

from pathlib import Path

from data.base.errors import InputError
from data.base.options import options
from data.base.outputs import ForceOption


@options
class ReportConfig(ForceOption):
    """Make one HTML page of a run: results, yield, hardness, source leak, cost, and every negative to look at."""

    run: Path
    """Run folder: what demo, synthesize, train or diagnose wrote (diagnostics are looked for in RUN/diagnostics)."""

    out: Path | None = None
    """The page (None: report.html inside the run folder)."""

    title: str | None = None
    """Heading of the page (None: the folder's name)."""

    def __post_init__(self) -> None:
        if self.out is not None and self.out.is_dir():
            raise InputError(f"--out: expected a file name like report.html, got the folder {self.out}")
