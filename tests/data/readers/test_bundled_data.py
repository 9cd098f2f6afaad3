from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.text import same_text_key
from data.readers.beir import read_beir, write_beir
from data.readers.demo import demo_family_set, demo_items, demo_train_set
from data.readers.recorded import BUNDLED, bundled_rows
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet, find_leakage


def test_leakage_is_found_by_text_not_by_id(small: RetrievalSet) -> None:
    train = RetrievalSet(
        name="t",
        passages={"other": "SECOND"},
        queries={"x": "Which is  first"},
        qrels={"x": {"other": 1}},
    )
    found = find_leakage(train.rows(), small)
    assert found.queries == ("q1",)
    assert found.relevant_passages == ("p2",)
    assert found.summary().startswith("1 of 2 evaluation queries and 1 of 2 ")
    assert not find_leakage([], small)


def test_the_demo_data_is_what_its_readme_says() -> None:
    items = demo_items()
    assert len(items) == 120
    assert sum(len(item.row.negatives) for item in items) == 394
    broken = kept = 0
    for item in items:
        (positive,) = item.row.positives
        assert item.positive_verdict.answers_query and all(item.positive_verdict.satisfied)
        assert all(r.evidence in positive.text for r in item.row.requirements)
        assert [r.id for r in item.row.requirements] == list(range(1, len(item.row.requirements) + 1))
        assert len(item.why) == len(item.row.negatives)
        for negative in item.row.negatives:
            assert negative.verdict and negative.requirement and not negative.verdict.answers_query
            violated = [i + 1 for i, holds in enumerate(negative.verdict.satisfied) if not holds]
            broken += negative.requirement.id in violated
            kept += violated == [negative.requirement.id]
    # The README counts 331 that violate exactly one requirement, whichever it is.
    assert broken == 380
    assert kept <= 331


def test_the_demo_splits_share_nothing_with_training() -> None:
    rows = [item.row for item in demo_items()]
    for split, queries in (("test", 100), ("dev", 40), ("seen", 140)):
        retrieval_set = demo_family_set(split)
        assert len(retrieval_set.queries) == queries
        assert not find_leakage(rows, retrieval_set)
        sizes = list(retrieval_set.families.values())
        assert set(retrieval_set.families) == set(retrieval_set.passages)
        assert {sizes.count(family) for family in sizes} == {5}
    assert len({same_text_key(text) for text in demo_train_set().passages.values()}) == 120


def test_families_make_a_challenge_set(small: RetrievalSet, tmp_path: Path) -> None:
    family_set = replace(small, families={"p1": "a", "p2": "a", "p3": "b"})
    write_beir(tmp_path / "small", family_set, "test")
    assert read_beir(tmp_path / "small") == family_set
    with (tmp_path / "small" / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "p4", "text": "x", "metadata": {"url": "u"}}\n')
    with pytest.raises(InputError, match="passage 'p4' has no family"):
        read_beir(tmp_path / "small")


def test_the_demo_data_is_a_source_by_name() -> None:
    assert len(read_source("bundled:demo", "train").queries) == 120
    assert read_source("bundled:demo", "dev") == demo_family_set("dev")
    with pytest.raises(InputError, match="has no split 'validation'; it has train, seen, dev, test"):
        read_source("bundled:demo", "validation")


def test_the_bundled_corpora_are_what_their_readmes_say() -> None:
    counts = {}
    for spec in BUNDLED:
        rows, naive = bundled_rows(spec, "counterfactual"), bundled_rows(spec, "naive")
        assert [row.query_id for row in rows] == [row.query_id for row in naive]
        assert not find_leakage([*rows, *naive], read_source(spec, "test"))
        corpus = read_source(spec, "train")
        assert all(corpus.passages[p.id] == p.text for row in rows for p in row.positives)
        negatives = {
            "counterfactual": [n for row in rows for n in row.of_source("generated")],
            "naive": [n for row in naive for n in row.of_source("generated")],
            "mined": [n for row in rows for n in row.of_source("mined")],
        }
        assert all(n.relevance is not None for found in negatives.values() for n in found)
        counts[spec] = {
            kind: (len(found), sum(n.verdict is not None and n.verdict.answers_query for n in found))
            for kind, found in negatives.items()
        }
    assert counts == {
        "bundled:demo": {"counterfactual": (394, 0), "naive": (394, 1), "mined": (0, 0)},
        "bundled:xquad-sentences": {"counterfactual": (1128, 0), "naive": (1128, 4), "mined": (1504, 11)},
    }
    exactly_one = [
        sum(not holds for holds in n.verdict.satisfied) == 1
        for row in bundled_rows("bundled:xquad-sentences", "counterfactual")
        for n in row.of_source("generated")
        if n.verdict is not None
    ]
    assert sum(exactly_one) == 920
    test = read_source("bundled:xquad-sentences", "test")
    assert (len(test.passages), len(test.queries)) == (1159, 340)
    assert test.families["x14-04-01"] == "x14-04"
    with pytest.raises(InputError, match="unknown bundled corpus"):
        read_source("bundled:squad", "test")
    with pytest.raises(InputError, match="unknown bundled corpus"):
        bundled_rows("bundled:squad", "naive")
