"""Which layout of prompts and answers a model follows: given, or found by a probe call."""

import copy
import re
from contextvars import ContextVar
from typing import Annotated, Any, Literal, get_args, get_origin

import dspy
import pydantic

from programs.lm.call.reading import CheckedAnswers
from programs.lm.models import ModelSpec, reads_schema
from programs.options import AdapterName

# The output list of the call in this context whose length is known beforehand, for decoding under a schema.
expected_length: ContextVar[tuple[str, int] | None] = ContextVar("expected_length", default=None)

# A grammar that counts to more than about this many characters becomes slow.
_LONGEST_STRING = 1000
# More items than any list of an answer has use for: requirements, their verdicts, negatives.
_LONGEST_LIST = 8
_KEPT_MESSAGES = 64
# A schema as DSPy writes it into a JSON string, which it ends.
_SCHEMA = re.compile(r'must adhere to the JSON schema: .*?(",?)$', re.MULTILINE)
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


class _MarkedSections(dspy.ChatAdapter):  # type: ignore[misc]
    """DSPy's chat layout with a system message that names each field once, and types in words instead of schemas: the
    message is paid for with every call, and is a third shorter so."""

    def format_system_message(self, signature: Any) -> str:
        """What is given, what is wanted and the instructions."""
        inputs = [_mark(name, _described(field)) for name, field in signature.input_fields.items()]
        outputs = [
            _mark(name, "; ".join(filter(None, [type_in_words(field.annotation), _described(field)])))
            for name, field in signature.output_fields.items()
        ]
        task = [line.strip() for line in signature.instructions.splitlines()]
        return "\n".join(
            (
                *("You are given, each below its mark:", *inputs),
                *("Answer with these, each below its mark, in this order:", *outputs, _mark("completed", "")),
                *("", *task),
            )
        ).strip()

    def user_message_output_requirements(self, signature: Any) -> str:
        """The reminder at the end of a request; types are in the system message."""
        marks = ", ".join(f"`{_mark(name, '')}`" for name in (*signature.output_fields, "completed"))
        return f"Respond with the corresponding output fields, each below its mark: {marks}."


def _mark(name: str, text: str) -> str:
    return f"[[ ## {name} ## ]] {text}".rstrip()


def _described(field: Any) -> str:
    text = str((field.json_schema_extra or {}).get("desc", ""))
    # Without a description DSPy takes the field's name.
    return "" if text.startswith("${") else text


def type_in_words(annotation: Any) -> str:
    """A type as a model is told to write it: JSON by example, with the descriptions of the fields."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        parts = []
        for name, field in annotation.model_fields.items():
            words, said = type_in_words(field.annotation), field.description or ""
            # A description that goes through the values of a choice says all.
            listed = get_origin(field.annotation) is Literal and all(v in said for v in get_args(field.annotation))
            parts.append(f'"{name}": {"one of" if listed else words}{f" ({said})" if said else ""}')
        return f"{{{', '.join(parts)}}}"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(arguments[0])
    if origin is Literal:
        return " | ".join(f'"{value}"' for value in arguments)
    if origin is list:
        return f"[{type_in_words(arguments[0])}, ...]"
    return {str: "text", bool: "true | false", int: "whole number", float: "number"}.get(annotation, "JSON")


class ChatLayout(_Remembering, _MarkedSections):
    """Marked sections, without DSPy's silent second try in JSON."""

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
    A model that `reads_schema` is shown the schema of the request by its provider, so that the prompt leaves it out.
    """

    def __init__(self, *, schema_constrained: bool, reads_schema: bool = False):
        super().__init__()
        self._constrained, self._reads_schema = schema_constrained, reads_schema

    def format_field_structure(self, signature: Any) -> str:
        """The fields as DSPy shows them."""
        shown = str(super().format_field_structure(signature))
        return _SCHEMA.sub(r"must adhere to the given JSON schema\1", shown) if self._reads_schema else shown

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
        return SchemaAdapter(schema_constrained=spec.schema_constrained, reads_schema=reads_schema(spec))
    if name == "xml":
        return XMLLayout()
    return ChatLayout()
