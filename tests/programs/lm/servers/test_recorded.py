"""recorded:demo answers by input fields, whatever surrounds them, and invents nothing."""

import json
from collections.abc import Iterator

import dspy
import httpx
import pytest

from data.readers.demo import demo_items
from data.readers.recorded import bundled_rows
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.lm.servers.recorded import NotRecordedError, RecordedAnswers, RecordedServer, read_inputs
from programs.modules.signatures import ExtractRequirements, VerifyIrrelevance, ViolateRequirement

ADAPTERS = [
    dspy.ChatAdapter(use_json_adapter_fallback=False),
    dspy.JSONAdapter(),
    dspy.XMLAdapter(use_json_adapter_fallback=False),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RecordedServer]:
    with RecordedServer() as running:
        yield running


def predictor(server: RecordedServer, signature: type[dspy.Signature]) -> dspy.Predict:
    spec = ModelSpec(
        is_local=True,
        name="recorded:demo",
        model="openai/recorded-demo",
        api_base=server.api_base,
        api_key=server.token,
        temperature=0.0,
    )
    found = dspy.Predict(signature)
    found.lm = RoleLM("generator", spec, retries=0)
    return found


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_every_adapter_gets_the_recorded_answers(server: RecordedServer, adapter: dspy.Adapter) -> None:
    item = demo_items()[3]
    row, negative = item.row, item.row.negatives[0]
    assert negative.requirement is not None and negative.verdict is not None
    statements = [f"{requirement.id}. {requirement.statement}" for requirement in row.requirements]
    with dspy.context(adapter=adapter):
        extracted = predictor(server, ExtractRequirements)(
            relevance="r", query=row.query, passage=row.positives[0].text
        )
        written = predictor(server, ViolateRequirement)(
            style=["a\n\nb"],
            query=row.query,
            passage=row.positives[0].text,
            requirements=statements,
            target=statements[negative.requirement.id - 1],
            disruption=negative.disruption,
            direction=item.why[0],
            refused="",
        )
        judged = predictor(server, VerifyIrrelevance)(
            relevance="r", query=row.query, requirements=statements, passage=negative.text
        )
    assert [draft.statement for draft in extracted.requirements] == [r.statement for r in row.requirements]
    assert written.negative.strip() == negative.text
    assert tuple(judged.satisfied) == negative.verdict.satisfied
    assert judged.answers_query is False


def test_demonstrations_and_new_instructions_do_not_disturb_it(server: RecordedServer) -> None:
    first, second = demo_items()[0].row, demo_items()[1].row
    ask = predictor(server, ExtractRequirements.with_instructions("Do it well. Respond with a JSON object, maybe."))
    ask.demos = [
        dspy.Example(
            relevance="r", query=first.query, passage=first.positives[0].text, information_need="n", requirements=[]
        )
    ]
    with dspy.context(adapter=ADAPTERS[0]):
        found = ask(relevance="other", query=second.query, passage=second.positives[0].text)
    assert [draft.statement for draft in found.requirements] == [r.statement for r in second.requirements]


def test_all_recorded_answers_are_found_by_their_inputs() -> None:
    answers = RecordedAnswers()
    for item in demo_items():
        row = item.row
        listed = json.dumps([requirement.statement for requirement in row.requirements])
        base = {"query": row.query, "passage": row.positives[0].text}
        assert len(answers.find(base)["requirements"]) == len(row.requirements)
        for negative, why in zip(row.negatives, item.why, strict=True):
            assert negative.requirement is not None
            asked = base | {
                "requirements": listed,
                "target": negative.requirement.statement,
                "disruption": str(negative.disruption),
                "direction": why,
                "refused": "",
            }
            assert answers.find(asked)["negative"] == negative.text
            verdict = answers.find({"query": row.query, "requirements": listed, "passage": negative.text})
            assert verdict["satisfied"] == list(negative.verdict.satisfied if negative.verdict else ())


@pytest.mark.parametrize(
    "inputs",
    [
        {"query": "a question nobody recorded", "passage": "text"},
        {"query": demo_items()[0].row.query, "passage": "another passage"},
        {"query": demo_items()[0].row.query, "passage": demo_items()[0].row.positives[0].text, "requirements": '["x"]'},
        {"query": "q", "passage": "p", "requirements": "[]", "target": "1. t", "disruption": "d", "direction": "x"},
    ],
)
def test_what_is_not_recorded_is_an_error(inputs: dict[str, str]) -> None:
    with pytest.raises(NotRecordedError):
        RecordedAnswers().find(inputs)


def test_the_server_refuses_other_tokens_and_unreadable_requests(server: RecordedServer) -> None:
    assert server.api_base.startswith("http://127.0.0.1:")
    assert _status(server, "wrong", b"{}") == 401
    assert _status(server, server.token, b"not json") == 400
    assert _status(server, server.token, b'{"messages": [{"role": "user", "content": "hello"}]}') == 422


def _status(server: RecordedServer, token: str, body: bytes) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.post(f"{server.api_base}/chat/completions", content=body, headers=headers).status_code


def test_fields_are_read_up_to_the_reminder() -> None:
    text = "[[ ## query ## ]]\na\n\nRespond with care\n\n[[ ## passage ## ]]\nb\n\nRespond with a JSON object in the"
    assert read_inputs(text) == ({"query": "a\n\nRespond with care", "passage": "b"}, "json")


def test_every_answer_of_xquad_sentences_is_found() -> None:
    answers = RecordedAnswers("bundled:xquad-sentences")
    counterfactual, naive = (bundled_rows("bundled:xquad-sentences", kind) for kind in ("counterfactual", "naive"))
    for row, plain in zip(counterfactual, naive, strict=True):
        inputs = {"query": row.query, "passage": row.positives[0].text}
        extraction = answers.find(inputs)
        assert [each["statement"] for each in extraction["requirements"]] == [r.statement for r in row.requirements]
        statements = json.dumps([f"{r.id}. {r.statement}" for r in row.requirements])
        for negative in (*row.negatives, *plain.negatives):
            assert negative.verdict is not None
            verdict = answers.find({"query": row.query, "passage": negative.text, "requirements": statements})
            assert tuple(verdict["satisfied"]) == negative.verdict.satisfied
        written = answers.find({**inputs, "count": "3"})
        assert written["negatives"] == [n.text for n in plain.of_source("generated")]
