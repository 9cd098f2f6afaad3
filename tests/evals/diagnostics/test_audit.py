import io
from collections.abc import Callable
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.records import Requirement, Verdict
from evals.diagnostics.audit import Label, agreement, audit_sample, cohens_kappa, read_labels, run_audit
from programs.modules.candidates import Candidate, Synthesis
from tests.evals.synthetic import generated, mined, row

ROWS = [row(r, [generated(f"g {r} a"), generated(f"g {r} b"), mined(f"m {r}")]) for r in range(20)]
REQUIREMENT = Requirement(id=1, kind="entity", statement="is about r")


def verdict(answers: bool) -> Verdict:
    return Verdict(satisfied=(answers,), answers_query=answers, reason="so")


SYNTHESES = {
    r.query_id: Synthesis(
        canary=verdict(True),
        canary_asked=True,
        candidates=(
            Candidate(requirement=REQUIREMENT, disruption="entity_shift", direction="", fate="answers_query",
                      text=f"refused {r.query_id}", verdict=verdict(True)),
        ),
    )
    for r in ROWS
}  # fmt: skip


def answering(*words: str) -> Callable[[str], str]:
    left = iter(words)

    def ask(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return ask


def test_the_sample_mixes_all_kinds_and_a_larger_one_goes_on_from_a_smaller() -> None:
    small, large = audit_sample(ROWS, 15, syntheses=SYNTHESES), audit_sample(ROWS, 60, syntheses=SYNTHESES)
    assert large[:15] == small
    assert {item.kind for item in large} == {"generated", "mined", "positive", "refused"}
    assert len({item.id for item in large}) == 60
    assert all(item.verifier is True for item in large if item.kind in ("positive", "refused"))
    assert audit_sample(ROWS, 15, seed=1, syntheses=SYNTHESES) != small


def test_the_sample_ends_with_the_passages() -> None:
    assert len(audit_sample(ROWS[:1], 99)) == 4


def test_the_screen_never_names_the_source_and_shows_the_positive_only_when_asked(tmp_path: Path) -> None:
    out = io.StringIO()
    run_audit(ROWS, tmp_path / "a.jsonl", num=30, syntheses=SYNTHESES, ask=answering(*["n"] * 30), out=out)
    shown = out.getvalue().split("\n", 3)[3]
    assert not any(word in shown for word in ("generated", "mined", "positive", "refused it", "verifier"))
    asked = io.StringIO()
    first = audit_sample(ROWS, 1)[0]
    run_audit(ROWS, tmp_path / "b.jsonl", num=1, ask=answering("p", "maybe", "n"), out=asked)
    assert f"a passage known to answer the query:\n  {first.row.positives[0].text}" in asked.getvalue()
    assert "please answer y, n, s, p or q" in asked.getvalue()


def test_a_stopped_audit_goes_on_where_it_ended(tmp_path: Path) -> None:
    file = tmp_path / "labels" / "a.jsonl"
    assert len(run_audit(ROWS, file, num=10, ask=answering("n", "Y", "q"), out=io.StringIO())) == 2
    out = io.StringIO()
    labels = run_audit(ROWS, file, num=10, ask=answering(*["", "no", "yes", "s"]), out=out)
    assert "10 passages to judge, 2 already done" in out.getvalue()
    assert "3 of 10" in out.getvalue()
    assert [label.answer for label in labels] == ["no", "yes", "skip", "no", "yes", "skip"]


def test_labels_of_other_rows_and_of_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with pytest.raises(InputError, match="no audit has been made"):
        read_labels(file, ROWS)
    run_audit(ROWS, file, num=3, ask=answering("n", "n", "n"), out=io.StringIO())
    with pytest.raises(InputError, match="belong to other rows"):
        read_labels(file, [row(99, [generated("x")])])
    file.write_text('{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:1: not a label"):
        read_labels(file, ROWS)


def test_rows_without_generated_negatives_are_one_clear_line() -> None:
    with pytest.raises(InputError, match="nothing to audit"):
        audit_sample([row(0, [mined("m")])], 5)


def label(kind: str, verifier: bool | None, answer: str) -> Label:
    return Label(id="", kind=kind, verifier=verifier, answer=answer)  # type: ignore[arg-type]


def test_agreement_by_hand() -> None:
    labels = [
        *[label("generated", False, "no")] * 6,
        *[label("generated", False, "yes")] * 2,
        label("refused", True, "yes"),
        label("positive", True, "yes"),
        label("mined", None, "no"),
        label("generated", False, "skip"),
    ]
    found = agreement(labels)
    assert (found.labelled, found.skipped, found.compared, found.agreed) == (11, 1, 10, 8)
    # observed 0.8; by chance 0.4 * 0.2 + 0.6 * 0.8 = 0.56
    assert found.kappa == pytest.approx((0.8 - 0.56) / 0.44)
    assert (found.false_negatives, found.generated) == (2, 8)
    assert found.false_negative_interval[0] < 0.25 < found.false_negative_interval[1]
    assert found.known_positives_recognised == found.positives == 1
    assert found.mined_answering == 0
    assert "2 of 8 generated negatives answer the query after all" in found.sentence()


def test_kappa_is_1_for_equal_answers_and_undefined_where_only_one_is_ever_given() -> None:
    assert cohens_kappa([(True, True), (False, False)]) == 1
    assert cohens_kappa([(False, False)] * 5) is None
    assert cohens_kappa([]) is None
    assert "undefined" in agreement([label("generated", False, "no")]).sentence()


def test_no_answer_yet_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="no answer yet"):
        agreement([label("generated", False, "skip")])
    assert "none of them a generated negative" in agreement([label("mined", None, "no")]).sentence()
