"""What a step sees of a row: one positive, clean negatives, masks that follow each negative's own source."""

import torch

from data.records import Negative, Passage, Row, Verdict
from trainer.config import TrainConfig
from trainer.step.batches import Examples, make_batch


def row(query: str, positives: list[str], mined: list[str] = (), generated: list[str] = (), mixed: bool = False) -> Row:  # type: ignore[assignment]
    negatives = [Negative(text=t, source="mined") for t in mined] + [
        Negative(text=t, source="generated") for t in generated
    ]
    return Row(
        query_id=query,
        query=query,
        positives=tuple(Passage(id=t, text=t) for t in positives),
        negatives=tuple(reversed(negatives) if mixed else negatives),
    )


def examples(rows: list[Row], **values: object) -> Examples:
    return Examples(rows, TrainConfig(rows="-", out="-", **values))  # type: ignore[arg-type]


def test_source_of_a_negative_does_not_depend_on_its_position() -> None:
    for mixed in (False, True):
        (batch,) = examples([row("q", ["p"], ["m1", "m2"], ["g1"], mixed=mixed)]).epoch(0)
        layout = make_batch(batch, in_batch=False)
        texts = [layout.passages[i] for i in layout.candidates_BN[0].tolist()]
        assert texts[0] == "p"
        assert {t for t, g in zip(texts, layout.generated_BN[0].tolist(), strict=True) if g} == {"g1"}
        assert sorted(texts[1:3]) == ["m1", "m2"]


def test_negatives_that_repeat_a_positive_or_each_other_are_left_out() -> None:
    rows = [row("q", ["p one", "p two"], ["P  One", "m", "M "], ["g", "p TWO"])]
    made = examples(rows)
    assert made.num_duplicates == 3
    ((example,),) = made.epoch(0)
    assert (example.mined, example.generated) == (("m",), ("g",))


def test_positives_of_the_same_query_in_another_row_are_known() -> None:
    made = examples([row("Q", ["a"], ["b", "m"]), row("q", ["b"], ["a", "n"])], batch_size=2)
    (batch,) = made.epoch(0)
    assert made.num_duplicates == 2
    layout = make_batch(batch, in_batch=True)
    assert layout.in_batch_BP is not None
    for b, example in enumerate(batch):
        allowed = {layout.passages[p] for p in torch.nonzero(layout.in_batch_BP[b]).flatten().tolist()}
        assert allowed == {"m", "n"} - set(example.mined)


def test_in_batch_mask_leaves_out_own_candidates_and_copies_of_the_positive() -> None:
    made = examples([row("q1", ["p"], ["m1"]), row("q2", ["x"], ["P", "m2"])], batch_size=2)
    (batch,) = made.epoch(0)
    layout = make_batch(batch, in_batch=True)
    assert layout.in_batch_BP is not None
    first = [e.query for e in batch].index("q1")
    allowed = {layout.passages[p] for p in torch.nonzero(layout.in_batch_BP[first]).flatten().tolist()}
    assert allowed == {"x", "m2"}


def test_ragged_rows_are_masked_and_equal_texts_are_encoded_once() -> None:
    rows = [row("a", ["p1"], ["shared", "m"], ["g1", "g2"]), row("b", ["p2"], ["shared"]), row("c", ["p3"])]
    (batch,) = examples(rows, batch_size=3).epoch(0)
    layout = make_batch(batch, in_batch=False)
    assert len(layout.passages) == len(set(layout.passages)) == 7
    assert sorted(layout.valid_BN.sum(dim=1).tolist()) == [1, 2, 5]
    assert sorted(layout.generated_BN.sum(dim=1).tolist()) == [0, 0, 2]
    assert layout.valid_BN[:, 0].all() and not layout.generated_BN[:, 0].any()
    assert not (layout.generated_BN & ~layout.valid_BN).any()
    assert layout.in_batch_BP is None


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    rows = [row(f"q{i}", ["a", "b"], [f"m{i}{k}" for k in range(9)], [f"g{i}{k}" for k in range(5)]) for i in range(10)]
    made = examples(rows, batch_size=4, max_mined=3, max_generated=2)
    first, again, second = list(made.epoch(0)), list(made.epoch(0)), list(made.epoch(1))
    assert first == again != second
    assert [len(batch) for batch in first] == [4, 4, 2]
    flat = [e for batch in first for e in batch]
    assert sorted(e.query for e in flat) == sorted(r.query for r in rows)
    assert all(len(e.mined) == 3 and len(e.generated) == 2 for e in flat)
    assert {e.positive for batch in [*first, *second] for e in batch} == {"a", "b"}
    other_seed = list(examples(rows, batch_size=4, max_mined=3, max_generated=2, seed=1).epoch(0))
    assert other_seed != first
    assert made.num_negatives == (30, 20)


def test_grades_follow_their_passage_and_unjudged_ones_have_none() -> None:
    verdict = Verdict(satisfied=(True, False), answers_query=False, reason="")
    judged = Row(
        query_id="q",
        query="q",
        positives=(Passage(id="p", text="p"),),
        negatives=(
            Negative(text="g1", source="generated", grade=0.25, verdict=verdict),
            Negative(text="m1", source="mined", verdict=verdict),
            Negative(text="P", source="generated", grade=1.0),
            Negative(text="g2", source="generated", verdict=verdict),
            Negative(text="g3", source="generated"),
        ),
    )
    ((example,),) = examples([judged], relevance="graded").epoch(0)
    assert example.passages == ("p", "m1", "g1", "g2", "g3")
    assert example.grades == (1.0, 0.0, 0.25, 0.5, 0.0)
    made = examples([judged, row("z", ["x"])], relevance="graded", grade_mined=True)
    assert made.unjudged == [judged]
    layout = make_batch(sorted(next(made.epoch(0)), key=lambda e: e.query), in_batch=True)
    assert layout.grades_BN.tolist() == [[1.0, 0.5, 0.25, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]
