import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from data.base.text import content_id
from data.records import Requirement
from evals.diagnostics.diagnose import score_lines
from evals.diagnostics.embedded_rows import embed_rows
from evals.report.browser import browser_data, safe_json
from programs.modules.candidates import Candidate, Synthesis
from tests.evals.synthetic import TableEncoder, generated, mined, row


@given(st.text())
def test_json_inside_a_page_reads_back_and_cannot_end_the_script(text: str) -> None:
    written = str(safe_json({"text": text}))
    assert json.loads(written) == {"text": text}
    assert not any(char in written for char in "<>&\u2028\u2029")


def test_passages_are_kept_once_and_refused_candidates_follow() -> None:
    requirement = Requirement(id=1, kind="entity", statement="is about 0")
    negative = replace(generated("answer one"), requirement=requirement)
    rows = [row(0, [mined("shared"), negative]), row(1, [mined("shared")])]
    refused = Candidate(
        requirement=requirement, disruption="intent_drift", direction="", fate="target_kept", text="too close"
    )
    unwritten = replace(refused, fate="not_written", text="")
    data = browser_data(rows, {"q0": Synthesis(candidates=(refused, unwritten))}, {})
    assert data["passages"].count("shared") == 1
    first = data["queries"][0]["negatives"]
    assert [n["source"] for n in first] == ["mined", "generated", "refused"]
    assert first[0]["scores"] == {"mining": 0.5}
    assert first[1]["fate"] == "accepted"
    assert first[1]["requirement"] == "is about 0"
    assert first[1]["marks"] == [[(7, 8)], [(7, 10)]]
    assert first[1]["answers"] is False and first[1]["satisfied"] == [False, True]
    assert first[2]["fate"] == "target_kept"


def test_scores_belong_to_their_negative() -> None:
    shown = row(0, [mined("a"), generated("b")])
    # Looked at with other rows: one negative more, in another order, and without one that is shown.
    looked_at = row(0, [mined("c"), generated("b")])
    (line,) = score_lines([looked_at], {"after": embed_rows([looked_at], TableEncoder())})
    query = browser_data([shown], {}, {line["query"]: line["scores"]})["queries"][0]
    assert query["scores"] == {"after": line["scores"]["after"][content_id("answer 0")]}
    # What was not scored shows its score of mining time.
    assert [n["scores"] for n in query["negatives"]] == [
        {"mining": 0.5}, {"after": line["scores"]["after"][content_id("b")]}
    ]  # fmt: skip
    # A query of the same id and another text is another query.
    (other,) = browser_data([replace(shown, query="other")], {}, {line["query"]: line["scores"]})["queries"]
    assert other["scores"] == {}


def test_a_page_that_would_be_too_large_leaves_out_the_last_queries() -> None:
    rows = [row(r, [generated("word " * 200 + str(r))]) for r in range(50)]
    data = browser_data(rows, {}, {}, most_bytes=20_000)
    assert 0 < len(data["queries"]) < 50
    assert data["num_rows"] == 50
    assert len(safe_json(data).encode()) < 21_000
    used = {q["positive"] for q in data["queries"]} | {n["p"] for q in data["queries"] for n in q["negatives"]}
    assert used == set(range(len(data["passages"])))
