"""Our layouts say what DSPy's say, word for word, and fit the schema to the model."""

from typing import Any

import dspy
import pytest

from programs.lm.adapters import ChatLayout, SchemaAdapter, XMLLayout, expected_length
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.modules.signatures import VerifyIrrelevance
from programs.modules.synthesizer import Synthesizer

SIGNATURES = [
    *Synthesizer().signatures.values(),
    *list(Synthesizer(batched=False, verify="one-by-one").signatures.values())[1:],
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ChatLayout(), dspy.ChatAdapter()),
        (XMLLayout(), dspy.XMLAdapter()),
        (SchemaAdapter(schema_constrained=True), dspy.JSONAdapter()),
    ],
    ids=["chat", "xml", "json"],
)
def test_prompts_are_dspys_also_when_they_are_remembered(ours: dspy.Adapter, theirs: dspy.Adapter) -> None:
    for signature in SIGNATURES:
        other = signature.with_instructions("Something else.")
        for _ in range(2):
            assert ours.format(signature, [], {}) == theirs.format(signature, [], {})
            assert ours.format(other, [], {}) == theirs.format(other, [], {})


def schema_of(signature: type[dspy.Signature], *, schema_constrained: bool) -> dict[str, Any]:
    spec = ModelSpec(name="m", model="openai/schema-test", is_local=True)
    kwargs: dict[str, Any] = {}
    SchemaAdapter(schema_constrained=schema_constrained)._prepare_response_format(
        RoleLM("generator", spec), kwargs, signature
    )
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
    bounded, free = schema_of(signature, schema_constrained=True), schema_of(signature, schema_constrained=False)
    strings = [part for part in parts(bounded) if part.get("type") == "string" and "enum" not in part]
    assert strings
    assert all(part["maxLength"] <= 1000 for part in strings)
    assert all(part["maxItems"] <= 8 for part in parts(bounded) if part.get("type") == "array")
    assert not [part for part in parts(free) if "maxLength" in part or "minLength" in part]
    objects = [part for part in parts(free) if part.get("type") == "object"]
    assert all(
        part["additionalProperties"] is False and set(part["required"]) == set(part["properties"]) for part in objects
    )


def test_a_expected_length_goes_into_the_schema() -> None:
    token = expected_length.set(("satisfied", 3))
    try:
        flags = schema_of(VerifyIrrelevance, schema_constrained=True)["properties"]["satisfied"]
    finally:
        expected_length.reset(token)
    assert (flags["minItems"], flags["maxItems"]) == (3, 3)
