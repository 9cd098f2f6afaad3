"""A small training set and dev set in the tiny tokenizer's words, for tests of the loop."""

from dataclasses import replace

from data.records import Negative, Passage, Row, Verdict
from data.retrieval_set import RetrievalSet

TOPICS = ["refund", "boiler", "ticket", "card", "bin", "seat"]
DETAILS = ["days", "months", "owner", "fee", "winter"]


def training_rows() -> list[Row]:
    """12 rows with 4 mined and 0 to 3 generated negatives."""
    return [
        Row(
            query_id=f"{topic}-{detail}",
            query=f"how long {topic} {detail}",
            positives=(Passage(id=f"{topic}-{detail}", text=f"the {topic} plan: {detail} from account"),),
            negatives=(
                *(Negative(text=f"{topic} {other} plan", source="mined") for other in DETAILS if other != detail),
                *(Negative(text=f"the {topic} {x}", source="generated") for x in ("bus", "tap", "leak")[:number]),
            ),
        )
        for number, topic in enumerate(TOPICS[:4])
        for detail in DETAILS[:3]
    ]


def judged_rows() -> list[Row]:
    """The same rows, every negative with a verdict over three requirements, of which it keeps none, one or two."""

    def judge(negative: Negative, number: int) -> Negative:
        satisfied = tuple(i < number % 3 for i in range(3))
        return replace(negative, verdict=Verdict(satisfied=satisfied, answers_query=False, reason=""))

    return [
        replace(row, negatives=tuple(judge(negative, i) for i, negative in enumerate(row.negatives)))
        for row in training_rows()
    ]


def mined_source() -> RetrievalSet:
    """The corpus and the queries of `training_rows`, from which they could have been mined."""
    rows = training_rows()
    passages = {passage.id: passage.text for row in rows for passage in row.positives}
    passages |= {n.text: n.text for row in rows for n in row.negatives if n.source == "mined"}
    return RetrievalSet(
        name="mined",
        passages=passages | {f"{t} {w}": f"{t} {w} account" for t in TOPICS for w in ("card", "water", "team")},
        queries={row.query_id: row.query for row in rows},
        qrels={row.query_id: {passage.id: 1 for passage in row.positives} for row in rows},
    )


def dev_set() -> RetrievalSet:
    """10 queries about topics that the rows do not ask about."""
    return RetrievalSet(
        name="dev",
        passages={f"{t}-{d}": f"the {t} plan: {d} from account" for t in TOPICS for d in DETAILS},
        queries={f"{t}-{d}": f"can we restore {t} {d}" for t in TOPICS[4:] for d in DETAILS},
        qrels={f"{t}-{d}": {f"{t}-{d}": 1} for t in TOPICS[4:] for d in DETAILS},
    )
