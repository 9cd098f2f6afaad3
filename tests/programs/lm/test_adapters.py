"""Our layouts say what DSPy's say, word for word, and fit the schema to the model."""

from typing import Any

import dspy
import pytest

from programs.lm.adapters import ChatLayout, SchemaAdapter, XMLLayout, known_length
from programs.lm.models import loopback_model
from programs.lm.role_lm import RoleLM
from programs.modules.synthesizer import Synthesizer

SIGNATURES = [*Synthesizer().signatures.values(), Synthesizer(batched=True).signatures["violate"]]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ChatLayout(), dspy.ChatAdapter()),
        (XMLLayout(), dspy.XMLAdapter()),
        (SchemaAdapter(bounded=True), dspy.JSONAdapter()),
    ],
    ids=["chat", "xml", "json"],
)
def test_prompts_are_dspys_also_when_they_are_remembered(ours: dspy.Adapter, theirs: dspy.Adapter) -> None:
    for signature in SIGNATURES:
        other = signature.with_instructions("Something else.")
        for _ in range(2):
            assert ours.format(signature, [], {}) == theirs.format(signature, [], {})
            assert ours.format(other, [], {}) == theirs.format(other, [], {})


def schema_of(signature: type[dspy.Signature], *, bounded: bool) -> dict[str, Any]:
    spec = loopback_model("m", model="openai/schema-test", api_base="http://127.0.0.1:1/v1", token="t")
    kwargs: dict[str, Any] = {}
    SchemaAdapter(bounded=bounded)._prepare_response_format(RoleLM("generator", spec), kwargs, signature)
    found: dict[str, Any] = kwargs["response_format"]["json_schema"]["schema"]
    return found


def parts(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [part for one in schema for part in parts(one)]
    if not isinstance(schema, dict):
        return []
    return [schema, *(part for value in schema.values() for part in parts(value))]


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.__name__)
def test_schemas_are_bounded_for_constrained_decoding_alone(signature: type[dspy.Signature]) -> None:
    bounded, free = schema_of(signature, bounded=True), schema_of(signature, bounded=False)
    strings = [part for part in parts(bounded) if part.get("type") == "string" and "enum" not in part]
    assert strings
    assert all(part["maxLength"] <= 1000 for part in strings)
    assert all(part["maxItems"] <= 8 for part in parts(bounded) if part.get("type") == "array")
    assert not [part for part in parts(free) if "maxLength" in part or "minLength" in part]
    objects = [part for part in parts(free) if part.get("type") == "object"]
    assert all(
        part["additionalProperties"] is False and set(part["required"]) == set(part["properties"]) for part in objects
    )


def test_a_known_length_goes_into_the_schema() -> None:
    token = known_length.set(("satisfied", 3))
    try:
        flags = schema_of(Synthesizer().signatures["verify"], bounded=True)["properties"]["satisfied"]
    finally:
        known_length.reset(token)
    assert (flags["minItems"], flags["maxItems"]) == (3, 3)
