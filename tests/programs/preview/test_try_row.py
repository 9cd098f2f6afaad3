"""One row on the terminal, through recorded:demo as any other model."""

import pytest

from data.readers.demo import demo_items
from programs.__main__ import main
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Refusal


def test_a_demo_row_with_marks_verdicts_and_cost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["try", f"query={demo_items()[1].row.query}"]) == 0
    shown = capsys.readouterr().out
    row = demo_items()[1].row
    assert f"query: {row.query}" in shown
    for requirement in row.requirements:
        assert f"{requirement.id}. {requirement.statement}" in " ".join(shown.split())
    assert "answers the query" in shown.partition("violation 1")[0]
    assert shown.count("accepted\n") >= 1 and shown.count("verifier: ") == shown.count("\nviolation ")
    assert "[-" in shown and "{+" in shown
    assert "tokens, cost: 0.0000 USD" in shown
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["query=who wrote this"], "recorded:demo has answers for the demo's rows alone"),
        (["query=who wrote this", "lm=openai/x"], "--passage"),
        (["lm=openai/x", "passage=a text"], "--query"),
    ],
)
def test_what_is_missing_is_said_in_one_line(flags: list[str], words: str, refusal: Refusal) -> None:
    assert words in refusal("try", *flags)


def test_a_passage_that_does_not_answer_is_said_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        flags = [
            "lm=openai/fake",
            f"api-base={server.api_base}",
            "adapter=chat",
            "query=q",
            "passage=a NOT RELEVANT text",
        ]
        assert main(["try", *flags]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == (
        "error: no negative was written: the row's own positive was said not to answer (It says NOT RELEVANT.)"
    )
