"""From a pipeline's file to the checked options of each of its steps, the paths between them filled in."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.base.arguments import from_texts, known_name, nearest, option_types, read_value
from data.base.errors import InputError
from data.base.files import read_toml
from data.base.run_file import option_texts
from evals.pipeline.config import PipelineConfig
from evals.retrieval.config import EVAL_FILE
from trainer.encoder.options import BUNDLED_MODEL

Commands = Mapping[str, tuple[type, Callable[[Any], object]]]
# In the order in which they run.
STEPS = ("queries", "mine", "synthesize", "verify", "train", "diagnose", "eval", "report")
# Options that name something to read, and those of them that name an encoder.
READ = (
    "data",
    "dev",
    "corpus",
    "rows",
    "program",
    "samples",
    "remine_like",
    "model",
    "baseline",
    "retriever",
    "rescore",
)
ENCODERS = READ[-4:]
_NO_PATHS = ("bundled:", "hub:", "mteb:")


@dataclass(frozen=True, slots=True)
class Step:
    """A command with its options; `made` is the file or folder that later steps take."""

    name: str
    kind: type
    run: Callable[[Any], object]
    config: Any
    made: Path


def read_plan(config: PipelineConfig, commands: Commands) -> tuple[Path, list[Step]]:
    """The folder of the pipeline and its steps in order. Raises InputError that names the file and the table."""
    top, tables = _overridden(config, commands)
    given = str(top.pop("out", "runs/pipeline"))
    out = config.out or read_value(PipelineConfig, "out", [given]) or Path("runs/pipeline")
    steps: dict[str, Step] = {}
    for name in STEPS:
        if name in tables:
            kind, run = commands[name]
            known = option_types(kind)
            shared = {key: value for key, value in top.items() if known_name(known, key) is not None}
            try:
                texts = option_texts(kind, name, [shared, filled(name, out, steps), tables[name]])
                options: Any = from_texts(kind, texts, f"just {name} --help")
                steps[name] = Step(name, kind, run, options, _made(name, options))
            except InputError as error:
                raise InputError(f"[{name}] {error}", file=config.config) from None
    return out, list(steps.values())


def _overridden(config: PipelineConfig, commands: Commands) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The file's keys at the top and its tables by step, names with dashes; the command line holds over both."""
    known = {step: option_types(commands[step][0]) for step in STEPS}
    every = {option for options in known.values() for option in options}
    top: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for name, value in read_toml(config.config).items():
        if name in STEPS:
            if not isinstance(value, dict):
                raise InputError(f"{name}: expected a table, [{name}]", file=config.config)
            tables[name] = {key.replace("_", "-"): each for key, each in value.items()}
        elif isinstance(value, dict) and known_name(every, name) is None:
            raise InputError(f"[{name}]: no such step{nearest(name, STEPS)}", file=config.config)
        else:
            top[name.replace("_", "-")] = value
    if not tables:
        raise InputError(f"has no table of a step: expected some of [{'], ['.join(STEPS)}]", file=config.config)
    taken = {option for step in tables for option in known[step]} | {"out"}
    for name in top:
        if known_name(taken, name) is None:
            raise InputError(f"{name}: no step takes it{nearest(name, taken)}", file=config.config)
    for name in ("data", "dev", "model", "lm"):
        if (value := getattr(config, name)) is not None:
            takers = [table for step, table in tables.items() if name in known[step]]
            if not takers:
                raise InputError(f"--{name}: no step of {config.config} takes it")
            top[name] = value
            for table in takers:
                if name == "model":
                    # At the top alone, over which a trained model holds.
                    table.pop(name, None)
                else:
                    table[name] = value
    for text in config.step_options:
        name, _, value = text.partition("=")
        step, _, option = name.removeprefix("--").partition(".")
        if step not in tables:
            raise InputError(f"--{name}: {config.config} has no [{step}]{nearest(step, tables)}")
        if known_name(known[step], option) is None:
            near = nearest(option.replace("_", "-"), known[step])
            raise InputError(f"--{name}: no such option of `{step}`{near}")
        tables[step][option.replace("_", "-")] = value
    return top, tables


def filled(name: str, out: Path, before: Mapping[str, Step]) -> dict[str, str]:
    """The paths of a step that follow from those before it. They hold over the file's top, its tables over them."""
    rows = next((before[step].made for step in ("verify", "synthesize", "mine") if step in before), None)
    data = before["queries"].made if "queries" in before else None
    model, base = (before["train"].made, before["train"].config.model) if "train" in before else (None, None)
    found: dict[str, dict[str, object]] = {
        "queries": {"out": out / "queries"},
        "mine": {"out": out / "mined.jsonl", "data": data},
        "synthesize": {"out": out / "synthesis", "rows": rows},
        # Where diagnose and report look, unless a synthesis is there.
        "verify": {"out": out / ("verified" if "synthesize" in before else "synthesis"), "rows": rows},
        "train": {"out": out / "train", "rows": rows, "dev": data},
        "diagnose": {"run": out, "rows": rows, "model": model, "baseline": base},
        "eval": {"out": out / EVAL_FILE, "data": data, "model": model, "baseline": base},
        "report": {"run": out},
    }
    return {option: str(value) for option, value in found[name].items() if value is not None}


def _made(name: str, config: Any) -> Path:
    """What the step leaves."""
    folder = Path(config.out or getattr(config, "run", None) or "")
    if folder == Path():
        raise InputError("--out: expected a file or folder that later steps can read")
    if name == "diagnose":
        return (folder if config.out else folder / "diagnostics") / "diagnostics.json"
    if name == "report":
        return folder if config.out else folder / "report.html"
    return folder / {"synthesize": "rows.jsonl", "verify": "rows.jsonl", "train": "model"}.get(name, "")


def check_files(steps: list[Step], earlier: list[Step]) -> None:
    """Raise InputError when data or a model that a step reads, and that no step before it makes, is not there."""
    from programs.profiles.profile import load_profile
    from trainer.encoder.model_files import find_model_folder

    made = {step.made for step in earlier}
    for step in steps:
        given = {name: value for name in READ if (value := getattr(step.config, name, None)) is not None}
        try:
            for name, value in given.items():
                if Path(value) in made:
                    continue
                if name in ENCODERS:
                    if value != BUNDLED_MODEL:
                        find_model_folder(str(value))
                elif not str(value).startswith(_NO_PATHS) and not Path(value).exists():
                    raise InputError(f"--{name.replace('_', '-')}: does not exist", file=value)
            if hasattr(step.config, "profile"):
                load_profile(step.config.profile)
            if hasattr(step.config, "lm"):
                _check_lm(step)
        except InputError as error:
            raise InputError(f"[{step.name}] {error}") from None
        made.add(step.made)


def _check_lm(step: Step) -> None:
    """Names, keys and prices. A model that would be loaded first, into a server of ours, is left to its step."""
    from programs.lm.budget import Budget
    from programs.lm.servers.local import PREFIX
    from programs.synthesis.roles import resolve_roles

    config = step.config.as_synthesis() if step.name == "verify" else step.config
    if not any(str(name).startswith(PREFIX) for name in (config.lm, config.verifier_lm)):
        with ExitStack() as stack:
            resolve_roles(stack, config, Budget(usd=config.budget_usd, tokens=config.budget_tokens))
