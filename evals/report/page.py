"""`python -m evals report`: a run folder as one self-contained HTML page, with no network and nothing to install."""

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from data.base.files import atomic_writer
from evals.report.browser import browser_data, safe_json
from evals.report.config import ReportConfig
from evals.report.run_folder import RunFolder, read_run_folder
from evals.report.views import config_tables, cost_view, curves_view, diagnostics_view, funnel_view, results_view, tiles

log = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"


def report(config: ReportConfig) -> Path:
    """Write the page and return its path. Raises InputError when the folder holds nothing to show."""
    run = read_run_folder(config.run)
    page = render(run, config.title or config.run.resolve().name)
    out = config.out or config.run / "report.html"
    with atomic_writer(out) as file:
        file.write(page)
    log.info("written: %s (%.1f MB); open it in a browser", out, len(page.encode()) / 1e6)
    for name, reason in run.absent.items():
        log.info("without %s: %s", name, reason)
    return out


def render(run: RunFolder, title: str) -> str:
    """The page as text. Everything that comes from the run is escaped by the template or by `safe_json`."""
    # The closing tag cannot occur in our own script; the hash lets the page's policy allow this script alone.
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}"
    browser = browser_data(run.rows, run.syntheses, run.scores)

    def view(name: str, make: Callable[[RunFolder], Any]) -> Any:
        """One section's content; None, and the reason kept, where a file is not as this version writes it."""
        try:
            return make(run)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            run.absent[name] = f"its file is in a form that this version does not know ({error!r})"
            return None

    return environment.get_template("report.html.j2").render(
        title=title,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        absent_reasons=run.absent,
        tiles=view("tiles", tiles) or [],
        configs=config_tables(run.configs),
        results=view("results", results_view),
        curves=view("curves", curves_view),
        funnel=view("synthesis", funnel_view),
        cost=view("cost", cost_view),
        audit=run.audit,
        diagnostics=view("diagnostics", diagnostics_view),
        browser=safe_json(browser),
        num_shown=len(browser["queries"]),
        num_rows=len(run.rows),
        disruptions=_occurring(browser),
    )


def _occurring(browser: Mapping[str, Any]) -> list[str]:
    found = {n.get("disruption", "") for query in browser["queries"] for n in query["negatives"]}
    return sorted(found - {""})


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
