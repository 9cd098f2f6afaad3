"""Which layout of prompts and answers a model follows: given, or found by a probe call."""

import copy
from contextvars import ContextVar
from typing import Any, get_args

import dspy
import pydantic

from data.base.errors import InputError
from programs.lm.faults import PASSING_LOSSES, UNREADABLE, CallError, RunStoppedError
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.modules.signatures import MAX_REQUIREMENTS, VerifyIrrelevance
from programs.options import AdapterName
from programs.store import RunStore

# The output list of the call in this context whose length is known beforehand, for decoding under a schema.
known_length: ContextVar[tuple[str, int] | None] = ContextVar("known_length", default=None)

# A grammar that counts to more than about this many characters becomes slow.
_LONGEST_STRING = 1000
_KEPT_MESSAGES = 64
_PROBE = {
    "relevance": "A passage is relevant when it states what was asked.",
    "query": "how long do opened oats keep",
    "requirements": ["1. is about oats", "2. says how long they keep once opened"],
    "passage": "Oats\nStore oats in a dry place. An opened packet keeps for eight weeks.",
}
LAYOUTS: tuple[AdapterName, ...] = tuple(name for name in get_args(AdapterName) if name != "auto")


class _Remembering:
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

    Where the model is decoded under the schema (`bounded`), every string and list gets a bound, or a small model runs
    on until its token limit. Hosted models get no bounds of strings: some of them refuse such a schema.
    """

    def __init__(self, *, bounded: bool):
        super().__init__()
        self._bounded = bounded

    def _prepare_response_format(self, lm: Any, lm_kwargs: dict[str, Any], signature: Any) -> None:
        super()._prepare_response_format(lm, lm_kwargs, signature)
        wanted = lm_kwargs.get("response_format")
        if isinstance(wanted, type) and issubclass(wanted, pydantic.BaseModel):
            schema = copy.deepcopy(wanted.model_json_schema())
            _fit(schema, self._bounded)
            name, length = known_length.get() or ("", 0)
            if self._bounded and name in schema["properties"]:
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
        part["maxItems"] = min(part.get("maxItems", MAX_REQUIREMENTS), MAX_REQUIREMENTS)
    for value in part.values():
        _fit(value, bounded)


def make_adapter(name: AdapterName, spec: ModelSpec) -> dspy.Adapter:
    """The DSPy adapter with this layout; none of them falls back to another one by itself."""
    if name == "json":
        return SchemaAdapter(bounded=spec.bounded)
    if name == "xml":
        return XMLLayout()
    return ChatLayout()


def choose_adapter(wanted: AdapterName, lm: RoleLM, store: RunStore) -> AdapterName:
    """The layout for this model: the wanted one, or for "auto" the first that it answers a probe in.

    Models that take a JSON schema are probed with json first. The finding is kept in the store, so that a run that goes
    on uses the same one. Raises InputError when the model follows no layout, or when nothing answers.
    """
    if wanted != "auto":
        return wanted
    if lm.spec.free and lm.spec.name.startswith("recorded:"):
        # Recorded answers come in any layout, and there are none to a probe.
        return "chat"
    known = store.get_note(f"adapter:{lm.spec.name}")
    if known in LAYOUTS:
        return known
    order = sorted(LAYOUTS, key=lambda name: name != "json" or not lm.supports_response_schema)
    failures = []
    for name in order:
        failure = _probe(lm, name)
        if failure is None:
            store.set_note(f"adapter:{lm.spec.name}", name)
            return name
        failures.append(f"{name}: {failure}")
    raise InputError(
        f"{lm.spec.name} answered a probe in none of the layouts {', '.join(order)} ({'; '.join(failures)}); "
        "it is too weak for this job, or name one with --adapter"
    )


def _probe(lm: RoleLM, name: AdapterName) -> str | None:
    predictor = dspy.Predict(VerifyIrrelevance)
    predictor.lm = lm
    with dspy.context(adapter=make_adapter(name, lm.spec)):
        try:
            predictor(**_PROBE)
        except UNREADABLE as error:
            if not isinstance(error, CallError):
                return "not readable"
            if error.loss in PASSING_LOSSES:
                raise RunStoppedError(
                    f"{lm.spec.name} does not answer ({error}); check that the server runs and its address is right, "
                    "then run the same command again"
                ) from None
            return str(error)
    # Whether the content is right is for the canaries to tell; here only the form counts.
    return None
