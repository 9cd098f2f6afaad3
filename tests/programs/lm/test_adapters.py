"""Our layouts say what DSPy's say, word for word, and fit the schema to the model."""

from dataclasses import replace
from typing import Any, Literal

import dspy
import pytest

from programs.lm.adapters import ChatLayout, SchemaAdapter, XMLLayout, expected_length, type_in_words
from programs.lm.models import ModelSpec, reads_schema
from programs.lm.role_lm import RoleLM
from programs.modules.signatures import LineupVerdict, VerifyIrrelevance, Way
from programs.modules.synthesizer import Synthesizer

SIGNATURES = [
    *Synthesizer().signatures.values(),
    *list(Synthesizer(batched=False, verify="one-by-one").signatures.values())[1:],
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (XMLLayout(), dspy.XMLAdapter()),
        (SchemaAdapter(schema_constrained=True), dspy.JSONAdapter()),
    ],
    ids=["xml", "json"],
)
def test_prompts_are_dspys_also_when_they_are_remembered(ours: dspy.Adapter, theirs: dspy.Adapter) -> None:
    for signature in SIGNATURES:
        other = signature.with_instructions("Something else.")
        for _ in range(2):
            assert ours.format(signature, [], {}) == theirs.format(signature, [], {})
            assert ours.format(other, [], {}) == theirs.format(other, [], {})


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.__name__)
def test_the_chat_layout_names_every_field_once(signature: type[dspy.Signature]) -> None:
    ours, theirs = ChatLayout().format(signature, [], {}), dspy.ChatAdapter().format(signature, [], {})
    system = ours[0]["content"]
    for name, field in signature.fields.items():
        assert system.count(f"[[ ## {name} ## ]]") == 1
        desc = field.json_schema_extra["desc"]
        assert desc in system or desc.startswith("${")
    for line in signature.instructions.splitlines():
        assert line.strip() in system
    for name in signature.output_fields:
        assert ours[1]["content"].count(f"`[[ ## {name} ## ]]`") == 1
    assert len(system) < 0.75 * len(theirs[0]["content"])


def test_types_in_words() -> None:
    assert type_in_words(list[LineupVerdict]).startswith(
        '[{"number": whole number (the passage\'s number), "reason": text'
    )
    assert type_in_words(list[Way]).startswith('[{"disruption": one of (entity_shift: about another')
    assert type_in_words(Literal["a", "b"]) == '"a" | "b"'
    assert type_in_words(list[bool]) == "[true | false, ...]"
    assert type_in_words(dict) == "JSON"


def test_the_json_layout_sends_its_schema_once() -> None:
    for signature in SIGNATURES:
        shown = SchemaAdapter(schema_constrained=False, reads_schema=True).format(signature, [], {})[0]["content"]
        assert "$defs" not in shown and '"type"' not in shown
        plain = SchemaAdapter(schema_constrained=False).format(signature, [], {})[0]["content"]
        assert shown.count("the given JSON schema") == plain.count("the JSON schema: ")
        assert all(name in shown for name in signature.fields if name != "negative")
    hosted, own = (ModelSpec(name=name, model=name) for name in ("openai/gpt-4.1-mini", "hosted_vllm/x"))
    assert reads_schema(hosted)
    assert not reads_schema(own)
    assert not reads_schema(replace(hosted, is_local=True))


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
