"""Inputs that once broke a reader, a few hundred new ones, and round trips of any text."""

import gc
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.base.text import clean_text
from data.formats.convert import read_format, write_format
from data.formats.registry import FORMATS
from data.records import Negative, Passage, Row
from data.row_files import read_rows, write_rows
from programs.modules.candidates import Synthesis
from programs.synthesis.store import RunStore
from tests.chaos.fuzz import mutated
from tests.fuzz.targets import TARGETS, feed, seeds

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())
# Combining marks, right-to-left text, emoji, NUL and other controls: everything but half a surrogate pair.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
CLEAN = ANY_TEXT.map(clean_text).filter(bool)


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """Deeply nested input is refused at the bottom of a deep stack, where finalisers of earlier tests would fail."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_broke_a_reader_is_refused_in_words(path: Path) -> None:
    feed(path.name.split("-")[0], path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_good_and_damaged_inputs_end_in_nothing_worse_than_input_error(name: str) -> None:
    rng, good = random.Random(name), seeds(name)
    for raw in good:
        feed(name, raw)
    for _ in range(40):
        feed(name, mutated(rng.choice(good), rng))


@given(query=CLEAN, texts=st.lists(CLEAN, min_size=2, max_size=4, unique=True))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_every_writer_and_reader(query: str, texts: list[str], tmp_path: Path) -> None:
    positive, *others = texts
    row = Row(
        query_id="q",
        query=query,
        positives=(Passage(id="p", text=positive),),
        negatives=tuple(Negative(text=text, source="mined") for text in others),
    )
    for name in FORMATS:
        path = tmp_path / f"{name}.jsonl"
        write_format(path, name, [row], len(others))
        (back,) = read_format(path, name)
        assert (back.query, back.positives[0].text) == (query, positive), name
        assert [negative.text for negative in back.negatives] == others, name
    write_format(tmp_path / "rows.parquet", "rows", [row])
    assert list(read_format(tmp_path / "rows.parquet", "rows")) == [row]


@given(text=st.text(max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_store_keeps_any_clean_text(text: str, tmp_path: Path) -> None:
    found = Synthesis(failure=None, information_need=clean_text(text), failure_detail=clean_text(text))
    with RunStore(tmp_path / "store.sqlite", program="p") as store:
        store.finish("row", found)
        assert store.load("row") == found


@given(text=st.text())
def test_cleaning_is_idempotent_and_leaves_no_control_and_no_lone_surrogate(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert not any(ord(c) < 32 and c not in "\t\n" for c in cleaned)
    assert not any("\ud800" <= c <= "\udfff" for c in cleaned)
    cleaned.encode("utf-8")


def test_lone_surrogates_and_controls_are_normalised_on_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"query": "a\\ud800b\\u0000c", "positives": [{"text": "e\\u0301 \\u202edesrever \\ud83d\\ude42"}]}\n', "utf-8"
    )
    (row,) = read_rows(path)
    assert row.query == "a\ufffdb c"
    assert row.positives[0].text == "e\u0301 \u202edesrever 🙂"
    write_rows(path, [row])
    assert list(read_rows(path)) == [row]
