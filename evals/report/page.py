"""`python -m evals report`: a run folder as one self-contained HTML page, with no network and nothing to install.

The words stand in templates/, one file a section, which read the parts of the run as run_folder.py gives them.
"""

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from data.base.files import atomic_writer
from data.base.outputs import Outputs
from data.base.stats import Interval
from evals import charts
from evals.diagnostics.table import DRIFT_LINES, get_path, interval
from evals.report.browser import browser_data, safe_json
from evals.report.config import ReportConfig
from evals.report.run_folder import RunParts, read_run_folder
from evals.retrieval.measures import LABELS
from programs.modules.verifier import LOSS_WORDS

log = logging.getLogger(__name__)

_TEMPLATES = Path(__file__).parent / "templates"
_NUM_COLOURS = 7


def report(config: ReportConfig) -> Path:
    """Write the page and return its path. Raises InputError when the folder holds nothing to show."""
    out = config.out or config.run / "report.html"
    outputs = Outputs("report", [out], run=config.run, force=config.force)
    run = read_run_folder(config.run)
    page = render(run, config.title or config.run.resolve().name)
    with atomic_writer(out) as file:
        file.write(page)
    outputs.record()
    log.info("written: %s (%.1f MB); open it in a browser", out, len(page.encode()) / 1e6)
    for name, reason in run.absent.items():
        log.info("without %s: %s", name, reason)
    return out


def render(run: RunParts, title: str) -> str:
    """The page as text. Everything that comes from the run is escaped by the templates or by `safe_json`."""
    # The closing tag cannot occur in our own script; the hash lets the page's policy allow this script alone.
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    browser = browser_data(run.rows, run.candidates, run.scores)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    filters: dict[str, Callable[..., str]] = {
        "number": lambda value, digits=3: "–" if value is None else f"{value:,.{digits}f}",
        "percent": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
        "interval": interval,
        "change": lambda value: f"{Interval.of(value):+}",
        "words": lambda name: str(name).replace("_", " "),
    }
    environment.filters.update(filters)
    environment.globals |= {
        "run": run,
        "get_path": get_path,
        "charts": charts,
        "colour": lambda number: f"a{number % _NUM_COLOURS}",
        "curves": curves_by_arm(run),
        "drift_lines": DRIFT_LINES,
        "effect": effect,
        "labels": LABELS,
        "loss_words": LOSS_WORDS,
        "short_name": lambda model: short_name(model, run.path),
        "browser": browser,
        "browser_json": safe_json(browser),
        "occurring": {
            field: sorted({n.get(field, "") for q in browser["queries"] for n in q["negatives"]} - {""})
            for field in ("source", "disruption", "fate")
        },
        "zip": zip,
    }

    def section(name: str, part: str) -> Markup | None:
        """One section; None, and the reason kept, where a file is not as this version writes it."""
        if not getattr(run, part):
            return None
        try:
            return Markup(environment.get_template(f"{name}.html.j2").render(part=part))
        except (jinja2.UndefinedError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            run.absent[part] = f"its file is in a form that this version does not know ({error!r})"
            return None

    return environment.get_template("report.html.j2").render(
        title=title,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        section=section,
    )


def effect(pair: Mapping[str, Any]) -> str:
    """What a paired comparison says of its first name; only the interval of an ablation knows of training seeds."""
    if pair["p_value"] >= 0.05 or not Interval.of(pair["difference"]).leaves_out_zero:
        return "no significant difference"
    return "significantly better" if pair["difference"]["mean"] > 0 else "significantly worse"


def curves_by_arm(run: RunParts) -> list[tuple[int, str, list[dict[str, Any]]]]:
    """(number of the colour, name, points) of each training: those of its arm, or after all arms where it has none."""

    def letters(name: str) -> str:
        # An arm's name as its folder and its results share it.
        return re.sub(r"[^a-z0-9.]+", " ", name.casefold()).strip()

    arms = {letters(arm): (n, arm) for n, arm in enumerate((run.results or {"arms": {}})["arms"])}
    named = [
        (*arms.get(letters(name), (len(arms) + n, name)), points) for n, (name, points) in enumerate(run.curves.items())
    ]
    return sorted(named, key=lambda curve: curve[0])


def short_name(model: str, folder: Path) -> str:
    """An encoder's name as a reader knows it: a path inside the run by that part, another long one by its end."""
    path = Path(model)
    for root in (folder.resolve(), folder):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(Path("…", *path.parts[-3:])) if len(path.parts) > 3 else model
