"""Which layout of prompts and answers a model follows: given, or found by a probe call."""

import copy
from contextvars import ContextVar
from typing import Any, get_args

import dspy
import pydantic

from programs.lm.call.reading import CheckedAnswers
from programs.lm.models import ModelSpec
from programs.options import AdapterName

# The output list of the call in this context whose length is known beforehand, for decoding under a schema.
expected_length: ContextVar[tuple[str, int] | None] = ContextVar("expected_length", default=None)

# A grammar that counts to more than about this many characters becomes slow.
_LONGEST_STRING = 1000
# More items than any list of an answer has use for: requirements, their verdicts, negatives.
_LONGEST_LIST = 8
_KEPT_MESSAGES = 64
LAYOUTS: tuple[AdapterName, ...] = tuple(name for name in get_args(AdapterName) if name != "auto")


class _Remembering(CheckedAnswers):
    """Keeps the system messages of the last signatures: building one takes longer than all else in a prompt."""

    _kept: dict[Any, str]

    def format_system_message(self, signature: Any) -> str:
        """The part of the prompt that is the same for every call of a signature."""
        kept = self.__dict__.setdefault("_kept", {})
        if signature not in kept:
            if len(kept) >= _KEPT_MESSAGES:
                kept.clear()
            kept[signature] = super().format_system_message(signature)  # type: ignore[misc]
        return str(kept[signature])


class ChatLayout(_Remembering, dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's marked sections, without its silent second try in JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)


class XMLLayout(_Remembering, dspy.XMLAdapter):  # type: ignore[misc]
    """DSPy's XML tags, without its silent second try in JSON."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)


class SchemaAdapter(_Remembering, dspy.JSONAdapter):  # type: ignore[misc]
    """DSPy's JSON layout with the schema fitted to the model.

    Where the model is decoded under the schema (`schema_constrained`), every string and list gets a bound, or a small
    model runs on until its token limit. Hosted models get no bounds of strings: some of them refuse such a schema.
    """

    def __init__(self, *, schema_constrained: bool):
        super().__init__()
        self._constrained = schema_constrained

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        super()._prepare_response_format(lm, lm_kwargs, signature)
        wanted = lm_kwargs.get("response_format")
        if isinstance(wanted, type) and issubclass(wanted, pydantic.BaseModel):
            schema = copy.deepcopy(wanted.model_json_schema())
            _fit(schema, self._constrained)
            name, length = expected_length.get() or ("", 0)
            if self._constrained and name in schema["properties"]:
                schema["properties"][name] |= {"minItems": length, "maxItems": length}
            lm_kwargs["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": signature.__name__, "schema": schema, "strict": True},
            }


def _fit(part: Any, bounded: bool) -> None:
    if isinstance(part, list):
        for one in part:
            _fit(one, bounded)
    if not isinstance(part, dict):
        return
    if part.get("type") == "string" and "enum" not in part:
        longest = min(part.pop("maxLength", _LONGEST_STRING), _LONGEST_STRING)
        part.pop("minLength", None)
        if bounded:
            part["maxLength"] = longest
    if part.get("type") == "array" and bounded:
        part["maxItems"] = min(part.get("maxItems", _LONGEST_LIST), _LONGEST_LIST)
    for value in part.values():
        _fit(value, bounded)


def make_adapter(name: AdapterName, spec: ModelSpec) -> dspy.Adapter:
    """The DSPy adapter with this layout; none of them falls back to another one by itself."""
    if name == "json":
        return SchemaAdapter(schema_constrained=spec.schema_constrained)
    if name == "xml":
        return XMLLayout()
    return ChatLayout()
