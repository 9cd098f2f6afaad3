"""The corpora that ship with recorded answers of a capable language model, as judged queries and as training rows.

`bundled:demo` lies in data/demo, `bundled:xquad-sentences` in data/recorded/xquad_sentences; their READMEs say how the
answers were got. For each training query there are the requirements of its positive, counterfactual negatives, naive
ones of one plain prompt, and a blind verdict on each passage.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from data.base.errors import InputError
from data.base.fields import checked
from data.base.text import passage_text
from data.readers.beir import read_beir
from data.readers.demo import (
    DEMO_FOLDER,
    DemoItem,
    demo_items,
    demo_split,
    recorded_item,
    recorded_negatives,
    recorded_row,
)
from data.records import Negative, Row, Verdict
from data.retrieval_set import RetrievalSet
from data.row_files import read_objects

DEMO, XQUAD_SENTENCES = "bundled:demo", "bundled:xquad-sentences"
BUNDLED = (DEMO, XQUAD_SENTENCES)
XQUAD_FOLDER = Path(__file__).parents[1] / "recorded" / "xquad_sentences"
Generator = Literal["counterfactual", "naive"]


def bundled_set(spec: str, split: str) -> RetrievalSet:
    """One split of a bundled corpus. Raises InputError for a corpus or a split that is not there.

    In xquad-sentences the sentences of one paragraph are a family.
    """
    if spec == DEMO:
        return demo_split(split)
    _check(spec)
    found = read_beir(XQUAD_FOLDER, split)
    families = {passage_id: passage_id.rpartition("-")[0] for passage_id in found.passages}
    return replace(found, name=f"xquad-sentences/{split}", families=families)


def bundled_rows(spec: str, generator: Generator) -> list[Row]:
    """The training rows of a bundled corpus: requirements, the mined negatives that were judged (the demo has none),
    then the generated ones, each with its verdict. Raises InputError for another corpus.
    """
    if spec == DEMO:
        rows = [item.row for item in demo_items()]
        if generator == "counterfactual":
            return rows
        naive = {line.value["id"]: line.value["negatives"] for line in read_objects(DEMO_FOLDER / "naive.jsonl")}
        return [replace(row, negatives=recorded_negatives(naive[row.query_id], row, "recorded:naive")) for row in rows]
    _check(spec)
    return [_xquad_row(line.value, generator) for line in read_objects(XQUAD_FOLDER / "train.jsonl")]


def recorded_items(spec: str) -> tuple[DemoItem, ...]:
    """The training items of a bundled corpus: counterfactual negatives alone, how each breaks its requirement, and the
    verdict on the positive. Raises InputError for another corpus."""
    if spec == DEMO:
        return demo_items()
    _check(spec)
    return tuple(
        recorded_item(line.value, line.value["positive"]["id"], "recorded:counterfactual")
        for line in read_objects(XQUAD_FOLDER / "train.jsonl")
    )


def _check(spec: str) -> None:
    if spec not in BUNDLED:
        raise InputError(f"unknown bundled corpus; there are {' and '.join(BUNDLED)}", file=spec)


def _xquad_row(value: dict[str, Any], generator: Generator) -> Row:
    row = recorded_row(value, positive_id=value["positive"]["id"])
    generated = value["negatives"] if generator == "counterfactual" else value["naive"]
    mined = tuple(
        Negative(
            id=passage["id"],
            text=passage_text(passage["title"], passage["text"]),
            source="mined",
            verdict=checked(Verdict, passage["verdict"]),
        )
        for passage in value["mined"]
    )
    return replace(row, negatives=mined + recorded_negatives(generated, row, f"recorded:{generator}"))
