"""The demo data that ships with the project, read into the project's own forms (see data/demo/README.md)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

from data.base.errors import InputError
from data.base.fields import checked
from data.base.text import passage_text
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
    return tuple(_item(line.value) for line in read_objects(DEMO_FOLDER / "train.jsonl"))


def _item(value: dict) -> DemoItem:  # type: ignore[type-arg]
    requirements = tuple(checked(Requirement, requirement) for requirement in value["requirements"])
    by_id = {requirement.id: requirement for requirement in requirements}
    positive = value["positive"]
    row = Row(
        query_id=value["id"],
        query=value["query"],
        positives=(Passage(id=f"{value['id']}p", text=passage_text(positive["title"], positive["text"])),),
        negatives=tuple(
            Negative(
                text=passage_text(negative["title"], negative["text"]),
                source="generated",
                requirement=by_id[negative["violates"]],
                disruption=negative["disruption"],
                verdict=checked(Verdict, negative["verdict"]),
                generator="recorded:demo",
            )
            for negative in value["negatives"]
        ),
        requirements=requirements,
    )
    return DemoItem(
        row=row, positive_verdict=checked(Verdict, positive["verdict"]), why=tuple(n["why"] for n in value["negatives"])
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
