"""`just prompts`: the very messages that a run would send for its first rows, with their sizes, without any model.

What a model would answer is stood in for by the names of the fields, so that later steps can be shown too; a forecast
for all rows multiplies what was counted.
"""

import sys
import types
import typing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, Literal, get_args, get_origin

import dspy
from pydantic import BaseModel

from data.base.cli import text_table
from data.base.files import atomic_writer
from data.row_files import count_rows
from programs.lm.adapters import expected_length, make_adapter
from programs.lm.models import ModelSpec, known_price
from programs.lm.usage import estimated_tokens
from programs.modules.row_program import RowProgram
from programs.profiles.profile import load_profile
from programs.synthesis.config import PromptsConfig
from programs.synthesis.roles import build_program
from programs.synthesis.run import mined_rows
from programs.synthesis.workers import RowWork

# A stand-in for a list whose length the prompt does not say.
_USUAL_LENGTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One call that would be made: which predictor of which row, and its messages."""

    query_id: str
    predictor: str
    messages: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        """Estimated size of the prompt."""
        return estimated_tokens(sum(len(str(message["content"])) for message in self.messages))

    def text(self) -> str:
        """The messages as a person reads them."""
        head = f"===== {self.query_id}: {self.predictor}, about {self.tokens} tokens ====="
        return "\n\n".join([head, *(f"--- {m['role']} ---\n{m['content']}" for m in self.messages)])


def run_prompts(config: PromptsConfig) -> list[Prompt]:
    """Print the prompts of the first rows, or write them to `config.write`, and a forecast. Raises InputError."""
    prompts = collect_prompts(config)
    text = "\n\n".join(prompt.text() for prompt in prompts) + "\n"
    if config.write is None:
        sys.stdout.write(text + "\n")
    else:
        with atomic_writer(config.write) as file:
            file.write(text)
        sys.stdout.write(f"written: {config.write}\n")
    sys.stdout.write(forecast(config, prompts))
    return prompts


def collect_prompts(config: PromptsConfig) -> list[Prompt]:
    """Every call of the first rows, in order."""
    program, _ = build_program(config)
    profile = load_profile(config.profile)
    found: list[Prompt] = []
    layout: Literal["chat", "json", "xml"] = "chat" if config.adapter == "auto" else config.adapter
    base = make_adapter(layout, ModelSpec(name=config.lm, model=config.lm))
    for row in islice(mined_rows(config.rows, config.max_rows), config.max_rows):
        _listen(program, base, row.query_id, found)
        program(inputs=replace(RowWork.of(row, config).inputs(profile, config), canary=True))
    return found


def _listen(program: RowProgram, base: dspy.Adapter, query_id: str, found: list[Prompt]) -> None:
    """Let the program's predictors note their prompts instead of sending them."""
    nobody = dspy.LM("openai/nobody", engine="litellm", cache=False)
    for name in program.roles:
        getattr(program, name).lm = nobody
        program.adapters[name] = _Noting(base, query_id, name, found)


class _Noting(dspy.Adapter):  # type: ignore[misc]
    """Formats a call as `base` does, notes it, and answers with stand-ins."""

    def __init__(self, base: dspy.Adapter, query_id: str, predictor: str, found: list[Prompt]):
        super().__init__()
        self._base, self._query_id, self._predictor, self._found = base, query_id, predictor, found

    async def acall(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[Any], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        messages = self._base.format(signature=signature, demos=demos, inputs=inputs)
        self._found.append(Prompt(query_id=self._query_id, predictor=self._predictor, messages=messages))
        # Numbered by the call: equal drafts would be taken for copies of each other.
        number = len(self._found)
        return [{name: stand_in(name, field.annotation, number) for name, field in signature.output_fields.items()}]


def stand_in(name: str, kind: Any, number: int = 1) -> Any:
    """A value of this type that says what it stands for."""
    origin = get_origin(kind)
    if origin is Annotated:
        return stand_in(name, get_args(kind)[0], number)
    if origin is Literal:
        return get_args(kind)[0]
    if origin is list:
        wanted, length = expected_length.get() or ("", _USUAL_LENGTH)
        count = length if name == wanted else _USUAL_LENGTH
        return [stand_in(name, get_args(kind)[0], index) for index in range(1, count + 1)]
    if origin in (typing.Union, types.UnionType):
        return stand_in(name, get_args(kind)[0], number)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {key: stand_in(key, field.annotation, number) for key, field in kind.model_fields.items()}
        return kind.model_construct(**fields)
    if kind is bool:
        return name == "meets_query"
    if kind is int:
        return number
    return f"‹{name.replace('_', ' ')} {number}›"


def forecast(config: PromptsConfig, prompts: list[Prompt]) -> str:
    """Calls and prompt tokens a row, and for all rows of the file; the price where the model's is known."""
    rows = len({prompt.query_id for prompt in prompts}) or 1
    total = count_rows(config.rows)
    by_step: dict[str, list[int]] = {}
    for prompt in prompts:
        by_step.setdefault(prompt.predictor, []).append(prompt.tokens)
    table = [
        [step, f"{len(sizes) / rows:.1f}", f"{sum(sizes) / len(sizes):.0f}", f"{sum(sizes) / rows:.0f}"]
        for step, sizes in by_step.items()
    ]
    tokens = sum(sum(sizes) for sizes in by_step.values()) / rows
    table.append(["in all", f"{len(prompts) / rows:.1f}", "", f"{tokens:.0f}"])
    price = known_price(ModelSpec(name=config.lm, model=config.lm)) if "/" in config.lm else None
    cost = "its price is unknown" if price is None else f"{total * tokens * price.prompt:.2f} USD at list price"
    return (
        text_table(["step", "calls a row", "tokens a call", "prompt tokens a row"], table)
        + f"\n{total} rows: about {total * len(prompts) / rows:.0f} calls and {total * tokens:.0f} prompt tokens for "
        f"{config.lm} ({cost}), without answers, repairs and what is asked again; four characters count as a token\n"
    )
