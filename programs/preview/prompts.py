"""The very messages that a run would send for some rows, with their sizes, without any model.

What a model would answer is stood in for by the names of the fields, so that later steps can be shown too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

import dspy
from pydantic import BaseModel

from data.records import Row
from programs.lm.adapters import expected_length, make_adapter
from programs.lm.models import ModelSpec, is_hosted
from programs.lm.usage import TextSize, estimated_tokens
from programs.profiles.profile import STYLE_ROWS, load_profile, mined_passages, style_pool
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.roles import build_program
from programs.synthesis.run import mined_rows
from programs.synthesis.workers import RowWork

# A stand-in for a list whose length the prompt does not say.
_USUAL_LENGTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One call that would be made: which predictor of which row (its content id), and its messages."""

    row_id: str
    query_id: str
    predictor: str
    messages: list[dict[str, Any]]

    @property
    def tokens(self) -> int:
        """Estimated size of the prompt."""
        return estimated_tokens(TextSize.of("".join(str(message["content"]) for message in self.messages)))

    def text(self) -> str:
        """The messages as a person reads them."""
        head = f"===== {self.query_id}: {self.predictor}, about {self.tokens} tokens ====="
        return "\n\n".join([head, *(f"--- {m['role']} ---\n{m['content']}" for m in self.messages)])


def collect_prompts(config: SynthesizeConfig, rows: Iterable[Row]) -> list[Prompt]:
    """Every call for these rows, in order; one that comes again costs nothing and is left out."""
    program, _ = build_program(config)
    profile = load_profile(config.profile)
    if not profile.style:
        # As a new run folder draws it.
        mined = mined_passages(mined_rows(config.rows, STYLE_ROWS, generated=config.method == "verify"))
        pool = style_pool(mined, seed=config.seed)
        profile = replace(profile, pool=pool, shown_of_pool=config.style_passages)
    found: list[Prompt] = []
    layout: Literal["chat", "json", "xml"] = "chat" if config.adapter == "auto" else config.adapter
    base = make_adapter(layout, ModelSpec(name=config.lm, model=config.lm, is_local=not is_hosted(config.lm)))
    nobody = dspy.LM("openai/nobody", engine="litellm", cache=False)
    program.use(generator=nobody, verifier=nobody)
    works = {work.row_id: work for work in (RowWork.of(row, config) for row in rows)}
    for work in works.values():
        program.adapters = {name: _Noting(base, work, name, found) for name in program.signatures}
        program(inputs=replace(work.inputs(profile, config), canary=True))
    return found


class _Noting(dspy.Adapter):  # type: ignore[misc]
    """Formats a call as `base` does, notes it, and answers with stand-ins."""

    def __init__(self, base: dspy.Adapter, work: RowWork, predictor: str, found: list[Prompt]):
        super().__init__()
        self._base, self._work, self._predictor, self._found = base, work, predictor, found

    async def acall(
        self, lm: Any, lm_kwargs: dict[str, Any], signature: Any, demos: list[Any], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        messages = self._base.format(signature=signature, demos=demos, inputs=inputs)
        row_id, query_id = self._work.row_id, self._work.row.query_id
        self._found.append(Prompt(row_id=row_id, query_id=query_id, predictor=self._predictor, messages=messages))
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
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {key: stand_in(key, field.annotation, number) for key, field in kind.model_fields.items()}
        return kind.model_construct(**fields)
    if kind is bool:
        return name == "meets_query"
    if kind is int:
        return number
    return f"‹{name.replace('_', ' ')} {number}›"
