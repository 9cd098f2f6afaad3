"""What a run will take: calls, tokens and USD, shown by `just prompts` and said before each run, which is asked back
where that is much."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from data.base.cli import text_table
from data.base.errors import InputError
from data.base.files import atomic_writer
from data.base.outputs import Outputs
from programs.lm.models import ModelSpec, is_hosted, known_price
from programs.modules.row_program import RowProgram
from programs.preview.prompts import Prompt, collect_prompts
from programs.synthesis.config import PromptsConfig, SynthesizeConfig
from programs.synthesis.roles import Specs, build_program
from programs.synthesis.run import count_input, distinct_ids, read_input
from programs.synthesis.store import RunStore

log = logging.getLogger(__name__)
# So many rows tell what a row takes, where none of the run folder is finished.
_COUNTED_ROWS = 3
# Tokens of an answer for each of its prompt, measured on the 360 calls of recorded:demo.
_ANSWER_SHARE = {"generator": 0.35, "verifier": 0.20}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTokens:
    """What one role takes for a row, on average."""

    calls: float
    prompt: float
    completion: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What `rows` rows will take; `usd` is None where a model's price is unknown, `basis` says what it was found by."""

    rows: int
    calls: float
    tokens: float
    usd: float | None
    unpriced: str
    basis: str
    in_batches: bool = False

    def in_words(self) -> str:
        """One line."""
        price = "the list price of batches" if self.in_batches else "list price"
        cost = f"the price of {self.unpriced} is unknown" if self.usd is None else f"{self.usd:.2f} USD at {price}"
        return f"{self.rows} rows: about {self.calls:.0f} calls and {self.tokens:.0f} tokens, {cost} ({self.basis})"


def forecast(rows: int, by_role: Mapping[str, RoleTokens], basis: str, specs: Mapping[str, ModelSpec]) -> Forecast:
    """What so many rows take of these models, fallbacks left out."""
    prices = {role: known_price(specs[role]) for role in by_role}
    priced = [(by_role[role], price) for role, price in prices.items() if price is not None]
    each = sum(one.prompt * price.prompt + one.completion * price.completion for one, price in priced)
    unpriced = sorted({specs[role].name for role, price in prices.items() if price is None})
    return Forecast(
        rows=rows,
        calls=rows * sum(one.calls for one in by_role.values()),
        tokens=rows * sum(one.prompt + one.completion for one in by_role.values()),
        usd=None if unpriced else rows * each,
        unpriced=" and ".join(unpriced),
        basis=basis,
        in_batches=any(specs[role].in_batches for role in by_role),
    )


def counted(program: RowProgram, prompts: Sequence[Prompt]) -> tuple[dict[str, RoleTokens], str]:
    """What a row takes by the prompts of some rows, and the words for how that was found."""
    rows = _num_rows(prompts)
    by_role: dict[str, RoleTokens] = {}
    for role, share in _ANSWER_SHARE.items():
        asked = {predictor for predictor, one in program.roles.items() if one == role}
        sizes = [prompt.tokens for prompt in prompts if prompt.predictor in asked]
        if sizes:
            size = sum(sizes) / rows
            by_role[role] = RoleTokens(calls=len(sizes) / rows, prompt=size, completion=share * size)
    return by_role, f"counted on the prompts of {rows}, without repairs and what is asked again"


def measured(specs: Mapping[str, ModelSpec], store: RunStore, key: str) -> tuple[dict[str, RoleTokens], str]:
    """What a row that the run's folder has finished under this key took of these models, and the words for how that was
    found; nothing where there is none."""
    finished = store.num_finished(key)
    usage = {role: used for role, used in store.usage(program=key).items() if role in specs}
    if not finished or any(used.models != {specs[role].name} for role, used in usage.items()):
        return {}, ""
    return {
        role: RoleTokens(
            calls=(used.outcomes.total() - used.outcomes["replayed"]) / finished,
            prompt=used.prompt_tokens / finished,
            completion=used.completion_tokens / finished,
        )
        for role, used in usage.items()
    }, f"measured on the {finished} rows that are finished"


def confirm(config: SynthesizeConfig, specs: Specs, store: RunStore, key: str) -> None:
    """Say what the rows will take that are not finished under this key; ask back on a terminal when that is above the
    limit.

    Raises InputError when the answer is no.
    """
    first = {role: models[0] for role, models in specs.items()}
    rows = sum(
        not store.is_finished(row_id, judged=judged, program=key) for row_id, judged in distinct_ids(config).items()
    )
    by_role, basis = measured(first, store, key)
    if not by_role:
        program, _ = build_program(config)
        by_role, basis = counted(program, collect_prompts(config, islice(read_input(config), _COUNTED_ROWS)))
    found = forecast(rows, by_role, basis, first)
    if rows > 0:
        log.info("forecast for %s", found.in_words())
    if found.usd is None or found.usd <= config.confirm_above_usd or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    sys.stderr.write(f"more than {config.confirm_above_usd:g} USD (confirm-above-usd): go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("not started; fewer rows (max-rows) or another model cost less")


def run_prompts(config: PromptsConfig) -> list[Prompt]:
    """Print the prompts of the first rows, or write them to `config.write`, and a forecast. Raises InputError."""
    outputs = Outputs(
        "prompts",
        [config.write],
        inputs=[config.rows, config.profile, config.program],
        force=config.force,
    )
    count_input(config)
    prompts = collect_prompts(config, read_input(config))
    text = "\n\n".join(prompt.text() for prompt in prompts) + "\n"
    if config.write is None:
        sys.stdout.write(text + "\n")
    else:
        with atomic_writer(config.write) as file:
            file.write(text)
        outputs.record()
        sys.stdout.write(f"written: {config.write}\n")
    names = {"generator": config.lm, "verifier": config.verifier_lm or config.lm}
    specs = {
        role: ModelSpec(name=name, model=name, is_local=not is_hosted(name), in_batches=config.send != "calls")
        for role, name in names.items()
    }
    program, _ = build_program(config)
    found = forecast(len(distinct_ids(replace(config, max_rows=None))), *counted(program, prompts), specs)
    sys.stdout.write(f"{_sizes(prompts)}\n\n{found.in_words()}; tokens are estimated from the lengths of the texts\n")
    return prompts


def _num_rows(prompts: Sequence[Prompt]) -> int:
    """How many rows the prompts are of; 1 if there are none."""
    return len({prompt.row_id for prompt in prompts}) or 1


def _sizes(prompts: Sequence[Prompt]) -> str:
    """A table of the calls and prompt tokens of a row, by step."""
    rows = _num_rows(prompts)
    by_step: dict[str, list[int]] = {}
    for prompt in prompts:
        by_step.setdefault(prompt.predictor, []).append(prompt.tokens)
    table = [
        [step, f"{len(sizes) / rows:.1f}", f"{sum(sizes) / len(sizes):.0f}", f"{sum(sizes) / rows:.0f}"]
        for step, sizes in by_step.items()
    ]
    tokens = sum(prompt.tokens for prompt in prompts) / rows
    table.append(["in all", f"{len(prompts) / rows:.1f}", "", f"{tokens:.0f}"])
    return text_table(["step", "calls a row", "tokens a call", "prompt tokens a row"], table)
