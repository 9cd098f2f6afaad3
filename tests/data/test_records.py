import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.base.errors import BadRows, InputError
from data.base.text import clean_text, content_id, passage_text, same_text_key
from data.records import (
    Disruption,
    Negative,
    Passage,
    Requirement,
    Row,
    Verdict,
    row_content_id,
    row_from_dict,
    row_to_dict,
)
from data.row_files import read_objects, read_rows, write_objects, write_rows

texts = st.text(min_size=1, max_size=40).map(clean_text).filter(bool)
requirements = st.builds(
    Requirement,
    id=st.integers(1, 9),
    kind=texts,
    statement=texts,
    evidence=st.just("") | texts,
    critical=st.booleans(),
)
verdicts = st.builds(
    Verdict,
    satisfied=st.lists(st.booleans(), max_size=4).map(tuple),
    answers_query=st.booleans(),
    reason=st.just("") | texts,
)
negatives = st.builds(
    Negative,
    text=texts,
    source=st.sampled_from(["mined", "generated"]),
    id=st.none() | texts,
    score=st.none() | st.floats(-1, 1),
    requirement=st.none() | requirements,
    disruption=st.none() | st.sampled_from(get_args(Disruption)),
    verdict=st.none() | verdicts,
    generator=st.none() | texts,
    program=st.none() | texts,
    grade=st.none() | st.floats(0, 1),
)
_unrelated = st.builds(
    Row,
    query_id=texts,
    query=texts,
    positives=st.lists(
        st.builds(Passage, id=texts, text=texts, verdict=st.none() | verdicts, source=st.sampled_from([None, "mined"])),
        min_size=1,
        max_size=3,
    ).map(tuple),
    negatives=st.lists(negatives, max_size=4).map(tuple),
)


@st.composite
def _judged(draw: st.DrawFn) -> Row:
    """Rows whose verdicts have a value for each of their requirements, or none at all."""
    row = draw(_unrelated)
    wanted = {len(n.verdict.satisfied) for n in (*row.positives, *row.negatives) if n.verdict is not None} - {0}
    sizes = st.sampled_from([0, *wanted]) if len(wanted) < 2 else st.just(0)
    size = draw(sizes if wanted else st.integers(0, 3))
    return replace(row, requirements=tuple(draw(st.lists(requirements, min_size=size, max_size=size))))


rows = _judged()


@given(rows)
def test_a_row_survives_json(row: Row) -> None:
    assert row_from_dict(json.loads(json.dumps(row_to_dict(row)))) == row


def test_a_grade_is_the_share_of_the_requirements_that_hold() -> None:
    def relevance(satisfied: list[bool], answers: bool = False, grade: float | None = None) -> float | None:
        verdict = Verdict(satisfied=tuple(satisfied), answers_query=answers, reason="")
        return Negative(text="n", source="mined", verdict=verdict, grade=grade).relevance

    assert relevance([True, False, True, False]) == 0.5 and relevance([False]) == 0
    assert relevance([True, False], answers=True) == 1
    assert relevance([True, False], grade=0.1) == 0.1
    assert relevance([]) is None and Negative(text="n", source="mined").relevance is None


@given(st.text())
def test_cleaning_is_idempotent_and_encodable(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    once.encode("utf-8")


def test_cleaning_keeps_scripts_and_blanks_controls() -> None:
    assert clean_text(" e\u0301 שלום 👩‍👩‍👧 \x00a\x07b\ud800\r\n ") == "e\u0301 שלום 👩‍👩‍👧  a b\ufffd"


def test_titles_become_the_first_line() -> None:
    assert passage_text("Title", "Text") == "Title\nText"
    assert passage_text("  ", "Text") == passage_text(None, "Text") == "Text"


def test_same_text_ignores_case_space_and_form() -> None:
    assert same_text_key("ﬁne  Words\n") == same_text_key("Fine words")
    assert same_text_key("fine words") != same_text_key("fine word")


def test_content_ids_are_stable_and_separate_their_parts() -> None:
    # A literal, so that a change of the hash (which would orphan every run store) is seen.
    assert content_id("query", "passage") == "17a2a8611b98afc5"
    assert content_id("ab", "c") != content_id("a", "bc")


def test_the_row_id_depends_on_the_query_and_the_positives_that_the_data_gave_only() -> None:
    row = Row(query_id="1", query="q", positives=(Passage(id="p", text="t"),))
    other = Row(
        query_id="2",
        query="q",
        positives=(Passage(id="x", text="t"), Passage(text="was a negative", source="mined")),
        negatives=(Negative(text="n", source="mined"),),
    )
    assert row_content_id(row) == row_content_id(other)


STATED = {"id": 1, "kind": "entity", "statement": "s"}
NEGATIVE = {"text": "n", "source": "mined"}
VERDICT = {"satisfied": [True], "answers_query": False}


@pytest.mark.parametrize(
    ("change", "field", "what"),
    [
        ({"query": ""}, "query", "is empty"),
        ({"query": "\x00 "}, "query", "is empty"),
        ({"query": None}, "query", "is null"),
        ({"query": ["a"]}, "query", "expected text"),
        ({"positives": []}, "positives", "at least one"),
        ({"positives": "p"}, "positives", "expected a list"),
        ({"positives": [{"text": " "}]}, "positives[0].text", "is empty"),
        ({"positives": ["p"]}, "positives[0]", "expected a JSON object"),
        ({"negatives": [NEGATIVE | {"source": "found"}]}, "negatives[0].source", "expected one of mined, generated"),
        ({"negatives": [NEGATIVE | {"score": True}]}, "negatives[0].score", "expected a number"),
        (
            {"negatives": [NEGATIVE | {"verdict": VERDICT | {"satisfied": [1]}}]},
            "negatives[0].verdict.satisfied",
            "list of true and false",
        ),
        (
            {"requirements": [STATED, STATED | {"id": 2}], "negatives": [NEGATIVE | {"verdict": VERDICT}]},
            "negatives[0].verdict.satisfied",
            "a value for each of the row's 2 requirements, got 1",
        ),
        (
            {"requirements": [STATED, STATED | {"id": 2}], "positives": [{"text": "p", "verdict": VERDICT}]},
            "positives[0].verdict.satisfied",
            "a value for each of the row's 2 requirements, got 1",
        ),
        *(
            ({"negatives": [NEGATIVE | {"grade": grade}]}, "negatives[0].grade", f"a share from 0 to 1, got {grade!r}")
            for grade in (-0.1, 1.5, "high", True)
        ),
        ({"requirements": [STATED | {"id": 0}]}, "requirements[0].id", "1-based"),
    ],
)
def test_a_bad_row_names_file_line_and_field(change: dict, field: str, what: str, tmp_path: Path) -> None:
    good = {"query_id": "1", "query": "q", "positives": [{"id": "p", "text": "t"}]}
    path = tmp_path / "rows.jsonl"
    write_objects(path, [good, good | change])
    with pytest.raises(InputError) as caught:
        list(read_rows(path))
    assert caught.value.line == 2
    assert caught.value.field == field
    assert what in str(caught.value)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)

    bad_rows = BadRows()
    assert len(list(read_rows(path, bad_rows))) == 1
    assert bad_rows.count == 1
    assert "skipped 1 bad rows" in bad_rows.summary()


@pytest.mark.parametrize("line", ["{", "NaN", '{"a": Infinity}', "[" * 100_000])
def test_bad_json_names_its_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{{}}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:3: not valid JSON"):
        list(read_objects(path))


def test_bytes_that_are_not_utf8_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(InputError, match="not UTF-8"):
        list(read_objects(path))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = Row(query_id="1", query="q", positives=(Passage(id="p", text="t"),))
    assert write_rows(path, [row]) == 1
    before = path.read_bytes()

    def broken():
        yield row
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_rows(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_are_readable_by_datasets(tmp_path: Path) -> None:
    import datasets

    row = Row(
        query_id="1",
        query="q",
        positives=(Passage(id="p", text="t"),),
        negatives=(
            Negative(text="m", source="mined", score=0.5),
            Negative(
                text="g",
                source="generated",
                requirement=Requirement(id=1, kind="entity", statement="s"),
                verdict=Verdict(satisfied=(False,), answers_query=False, reason="r"),
            ),
        ),
    )
    path = tmp_path / "rows.jsonl"
    write_rows(path, [row, row])
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == 2
    assert [n["source"] for n in loaded[0]["negatives"]] == ["mined", "generated"]
