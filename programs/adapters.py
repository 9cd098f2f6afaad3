"""Which layout of prompts and answers a model follows: given, or found by a probe call."""

from collections.abc import Sequence
from typing import get_args

import dspy
from dspy.utils.exceptions import AdapterParseError

from data.errors import InputError
from programs.config import AdapterName
from programs.faults import CallError
from programs.role_lm import RoleLM
from programs.signatures import VerifyIrrelevance
from programs.store import RunStore

_PROBE = {
    "relevance": "A passage is relevant when it states what was asked.",
    "query": "how long do opened oats keep",
    "requirements": ["1. is about oats", "2. says how long they keep once opened"],
    "passage": "Oats\nStore oats in a dry place. An opened packet keeps for eight weeks.",
}
LAYOUTS: tuple[AdapterName, ...] = tuple(name for name in get_args(AdapterName) if name != "auto")


def make_adapter(name: AdapterName) -> dspy.Adapter:
    """The DSPy adapter with this layout; none of them falls back to another one by itself."""
    if name == "json":
        return dspy.JSONAdapter()
    if name == "xml":
        return dspy.XMLAdapter(use_json_adapter_fallback=False)
    return dspy.ChatAdapter(use_json_adapter_fallback=False)


def choose_adapter(wanted: AdapterName, lm: RoleLM, store: RunStore) -> AdapterName:
    """The layout for this model: the wanted one, or for "auto" the first that it answers a probe in.

    Models that take a JSON schema are probed with json first. The finding is kept in the store, so that a run that goes
    on uses the same one. Raises InputError when the model follows no layout.
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
    with dspy.context(adapter=make_adapter(name)):
        try:
            answer = predictor(**_PROBE)
        except AdapterParseError:
            return "not readable"
        except CallError as error:
            return str(error)
    flags: Sequence[bool] = answer.satisfied
    return None if len(flags) == len(_PROBE["requirements"]) else "verdict of the wrong length"
