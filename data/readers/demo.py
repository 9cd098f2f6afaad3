"""The demo data that ships with the project, read into the project's own forms (see data/demo/README.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from data.base.errors import InputError
from data.base.fields import checked
from data.base.text import passage_text, same_text_key
from data.records import Negative, Passage, Requirement, Row, Verdict
from data.retrieval_set import RetrievalSet
from data.row_files import read_objects

DEMO_FOLDER = Path(__file__).parents[1] / "demo"
FamilySplit = Literal["seen", "dev", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoItem:
    """One training item: its row (generated negatives included) and the positive's own verdict.

    `why[i]` says how `row.negatives[i]` breaks its requirement: the direction that the recorded generator was given.
    """

    row: Row
    positive_verdict: Verdict
    why: tuple[str, ...]


@lru_cache(maxsize=1)
def demo_items() -> tuple[DemoItem, ...]:
    """The 120 training items in file order."""
    return tuple(
        recorded_item(line.value, f"{line.value['id']}p", "recorded:demo")
        for line in read_objects(DEMO_FOLDER / "train.jsonl")
    )


def holds_demo_query(rows: Iterable[Row]) -> bool:
    """Whether one of the rows asks what a training query of the demo does: for others no answers are recorded."""
    known = {same_text_key(item.row.query) for item in demo_items()}
    return any(same_text_key(row.query) in known for row in rows)


def recorded_item(value: Mapping[str, Any], positive_id: str, generator: str) -> DemoItem:
    """A recorded item with its counterfactual negatives, as the demo's and other corpora's files have it."""
    row = recorded_row(value, positive_id=positive_id)
    return DemoItem(
        row=replace(row, negatives=recorded_negatives(value["negatives"], row, generator)),
        positive_verdict=checked(Verdict, value["positive"]["verdict"]),
        why=tuple(n["why"] for n in value["negatives"]),
    )


def recorded_row(value: Mapping[str, Any], positive_id: str) -> Row:
    """The query, positive and requirements of a recorded item, without negatives."""
    positive = value["positive"]
    return Row(
        query_id=value["id"],
        query=value["query"],
        positives=(Passage(id=positive_id, text=passage_text(positive["title"], positive["text"])),),
        requirements=tuple(checked(Requirement, requirement) for requirement in value["requirements"]),
    )


def recorded_negatives(values: Iterable[Mapping[str, Any]], row: Row, generator: str) -> tuple[Negative, ...]:
    """Recorded passages as generated negatives of a row; naive ones have no requirement that they were to break."""
    return tuple(
        Negative(
            text=passage_text(value["title"], value["text"]),
            source="generated",
            requirement=row.requirements[value["violates"] - 1] if "violates" in value else None,
            disruption=value.get("disruption"),
            verdict=checked(Verdict, value["verdict"]),
            generator=generator,
        )
        for value in values
    )


def demo_train_set() -> RetrievalSet:
    """The 120 training queries over the corpus of their positives."""
    rows = [item.row for item in demo_items()]
    return RetrievalSet(
        name="demo/train",
        passages={row.positives[0].id: row.positives[0].text for row in rows},
        queries={row.query_id: row.query for row in rows},
        qrels={row.query_id: {row.positives[0].id: 1} for row in rows},
    )


def demo_family_set(split: FamilySplit) -> RetrievalSet:
    """One split of the families, a challenge set: its passages alone are the corpus; each query has one answer."""
    families = [line.value for line in read_objects(DEMO_FOLDER / "families.jsonl") if line.value["split"] == split]
    return RetrievalSet(
        name=f"demo/{split}",
        passages={p["id"]: passage_text(p["title"], p["text"]) for f in families for p in f["passages"]},
        queries={q["id"]: q["text"] for f in families for q in f["queries"]},
        qrels={q["id"]: {q["answer"]: 1} for f in families for q in f["queries"]},
        families={p["id"]: f["family"] for f in families for p in f["passages"]},
    )


def demo_split(split: str) -> RetrievalSet:
    """Any split of the demo data by name. Raises InputError for another name."""
    if split == "train":
        return demo_train_set()
    if split in get_args(FamilySplit):
        return demo_family_set(cast(FamilySplit, split))
    raise InputError(f"has no split {split!r}; it has train, {', '.join(get_args(FamilySplit))}", file="bundled:demo")
