"""The ablation, end to end with a tiny random encoder, and its arms."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from data.base.cli import run_command
from data.base.errors import InputError
from data.base.files import folder_lock
from data.base.stats import bootstrap_interval, seeds_and_queries_interval
from data.readers.beir import write_beir
from data.readers.demo import demo_family_set, demo_items, demo_train_set
from data.readers.recorded import bundled_rows
from data.records import Negative, Passage, Row, Verdict
from data.retrieval_set import RetrievalSet
from data.row_files import read_rows, write_rows
from evals.__main__ import COMMANDS
from evals.ablation.ablate import SHOWN, _inputs_key, _read_slice, ablation_table, read_ablation, run_ablate
from evals.ablation.arms import MINED, NEGATIVES, arm_rows, arms_of, num_short, what_is_missing
from evals.ablation.config import AblateConfig
from evals.ablation.plot import ablation_plot
from evals.ablation.rows import with_mined
from trainer.config import TrainConfig
from trainer.encoder.encoder import Encoder
from trainer.losses import info_nce, weigh_generated


def row(query_id: str, *, mined: int, generated: int, word: str = "g") -> Row:
    return Row(
        query_id=query_id,
        query=f"query {query_id}",
        positives=(Passage(id=f"p{query_id}", text=f"positive {query_id}"),),
        negatives=(
            *(Negative(text=f"m{query_id}{i}", source="mined") for i in range(mined)),
            *(Negative(text=f"{word}{query_id}{i}", source="generated") for i in range(generated)),
        ),
    )


def config(**fields: object) -> AblateConfig:
    return AblateConfig(**{"rows": Path("r"), "test": "t", "out": Path("o")} | fields)  # type: ignore[arg-type]


def test_every_trained_arm_has_the_same_number_of_texts_row_by_row() -> None:
    rows = [row("1", mined=8, generated=3), row("2", mined=8, generated=0), row("3", mined=8, generated=2)]
    naive = [row("3", mined=8, generated=5, word="n"), row("1", mined=8, generated=1, word="n"), rows[1]]
    arms = arms_of(config(entropy_weights=(0.05, 1.0), generated_weights=(0.1,), grade_sharpness=(2.0, 8.0)))
    assert [(arm.name, *map(arm.settings.get, ("entropy_weight", "generated_weight"))) for arm in arms[1:]] == [
        ("mined", 0, 1),
        ("mined + naive", 0, 1),
        ("mined + counterfactual", 0, 1),
        ("mined + counterfactual + entropy 0.05", 0.05, 1),
        ("mined + counterfactual + entropy 1", 1, 1),
        ("mined + counterfactual, weight 0.1", 0, 0.1),
        ("mined + counterfactual, graded 2", 0, 1),
        ("mined + counterfactual, graded 8", 0, 1),
        ("mined + naive, graded 2", 0, 1),
        ("mined + naive, graded 8", 0, 1),
    ]
    assert [arm.settings.get("grade_sharpness") for arm in arms[-5:]] == [None, 2, 8, 2, 8]
    assert TrainConfig(rows="r", out="o", **arms[-1].settings).loss.graded
    assert (arms[0].name, arms[0].negatives) == ("zero-shot", None)
    shown = {kind: arm_rows(kind, rows, naive, 4) for kind in NEGATIVES}
    assert {kind: [len(r.negatives) for r in found] for kind, found in shown.items()} == {
        kind: [7, 4, 6] for kind in NEGATIVES
    }
    assert [[n.text for n in r.of_source("generated")] for r in shown["naive"]] == [["n10"], [], ["n30", "n31"]]
    assert [[n.text for n in r.of_source("mined")] for r in shown["mined"]] == [
        [n.text for n in r.negatives[:most]] for r, most in zip(rows, (7, 4, 6), strict=True)
    ]


def test_rows_with_too_few_mined_negatives_are_counted_and_said() -> None:
    rows = [row("1", mined=6, generated=2), row("2", mined=4, generated=2), row("3", mined=1, generated=1)]
    naive = [row("1", mined=0, generated=2, word="n"), row("2", mined=0, generated=1, word="n"), rows[2]]
    full = arm_rows("generated", rows, None, 4)
    assert {kind: num_short(arm_rows(kind, rows, naive, 4), full) for kind in NEGATIVES} == {
        "mined": 2, "naive": 1, "generated": 0, "promoted": 2, "smoothed": 2
    }  # fmt: skip
    scores = {"measures": {m: {"mean": 0.5, "low": 0.4, "high": 0.6} for m in SHOWN}, "seeds": 2}
    result = {
        "arms": {MINED: scores}, "against_mined": {}, "missing": {}, "rows": 3, "short_rows": {MINED: 2}, "tables": {},
        "test": {"name": "t", "queries": 1, "passages": 1},
    }  # fmt: skip
    assert "\nmined: 2 of 3 rows have fewer texts than the arms with generated negatives" in ablation_table(result)
    assert "fewer texts" not in ablation_table({**result, "short_rows": {}})


def test_scores_are_stale_when_the_model_or_the_dev_data_change(tiny_bert: Path, tmp_path: Path) -> None:
    dev = demo_family_set("dev")
    encoder = Encoder.load(str(tiny_bert))
    encoder.save(tmp_path / "model")
    write_beir(tmp_path / "dev", dev, "dev")
    settings = config(model=str(tmp_path / "model"), dev=str(tmp_path / "dev"))
    keys = [_inputs_key(settings, [dev]), _inputs_key(settings, [dev])]
    query_id = next(iter(dev.queries))
    write_beir(tmp_path / "dev", replace(dev, queries=dev.queries | {query_id: "another"}), "dev")
    keys.append(_inputs_key(settings, [dev]))
    with torch.no_grad():
        next(encoder.parameters()).add_(1.0)
    encoder.save(tmp_path / "model")
    keys.append(_inputs_key(settings, [dev]))
    assert keys[0] == keys[1] and len(set(keys)) == 3


def judged(negative: Negative, *, answers: bool) -> Negative:
    return replace(negative, verdict=Verdict(satisfied=(answers,), answers_query=answers))


def test_controls_change_one_thing_each() -> None:
    plain, controlled = (arms_of(config(entropy_weights=(0.05,), controls=found)) for found in (False, True))
    assert controlled[: len(plain)] == plain
    entropy, smoothed, promoted, alone = controlled[len(plain) :]
    assert entropy.settings["entropy_weight"] == 0.05 and TrainConfig(rows="r", out="o", **entropy.settings).loss.graded

    full = row("1", mined=7, generated=3)
    full = replace(
        full,
        negatives=tuple(
            replace(n, grade=g) for n, g in zip(full.negatives, [None] * 7 + [1 / 3, 2 / 3, 0.5], strict=True)
        ),
    )
    (shown,) = arm_rows(smoothed.negatives or "", [full], None, 4, 8.0)
    assert len(shown.negatives) == 7 and not shown.of_source("generated")
    grades = {n.grade for n in shown.negatives}
    strength = sum(math.exp(8 * g) for g in (1 / 3, 2 / 3, 0.5))
    assert len(grades) == 1 and 7 * math.exp(8 * grades.pop()) == pytest.approx(strength)
    assert TrainConfig(rows="r", out="o", **smoothed.settings).grade_mined

    false = replace(full, negatives=(full.negatives[0], judged(full.negatives[1], answers=True), *full.negatives[2:]))
    assert "no mined negative" in what_is_missing(promoted, [full], None)
    assert what_is_missing(promoted, [false], None) == ""
    (shown,) = arm_rows(promoted.negatives or "", [false], None, 4)
    assert [p.text for p in shown.positives] == ["positive 1", "m11"] and len(shown.negatives) == 6

    scores = torch.tensor([[0.5, 0.4, 0.99]])
    weighed = weigh_generated(scores, torch.tensor([[False, False, True]]), 0.05, alone.settings["generated_weight"])
    own = info_nce(weighed, torch.ones(1, 3, dtype=torch.bool), 0.05)
    assert own.item() == pytest.approx(
        info_nce(scores[:, :2], torch.ones(1, 2, dtype=torch.bool), 0.05).item(), abs=1e-3
    )


def test_graded_arms_need_verdicts() -> None:
    *_, plain, graded = (arm for arm in arms_of(config()) if arm.negatives == "generated")
    unjudged = [row("1", mined=1, generated=1)]
    assert what_is_missing(plain, unjudged, None) == ""
    assert "just verify" in what_is_missing(graded, unjudged, None)
    judged = [replace(unjudged[0], negatives=tuple(replace(n, grade=0.5) for n in unjudged[0].negatives))]
    assert what_is_missing(graded, judged, None) == ""


def test_bundled_rows_are_mined_here_and_keep_their_verdicts(tmp_path: Path) -> None:
    recorded = bundled_rows("bundled:xquad-sentences", "counterfactual")[:2]
    (first, second) = ([n.text for n in row.of_source("mined")] for row in recorded)
    mined = [
        replace(row, negatives=tuple(Negative(text=t, source="mined", score=0.5) for t in (*reversed(texts), "new")))
        for row, texts in zip(recorded, (first, second), strict=True)
    ]
    for found, row in zip(with_mined(recorded, mined), recorded, strict=True):
        assert [n.text for n in found.of_source("mined")] == [
            *(n.text for n in reversed(row.of_source("mined"))),
            "new",
        ]
        assert [n.relevance is None for n in found.of_source("mined")] == [False] * 4 + [True]
        assert found.of_source("mined")[0].score == 0.5
        assert found.of_source("generated") == row.of_source("generated") and found.requirements


def test_what_the_arms_cannot_be_built_from() -> None:
    with pytest.raises(InputError, match="no row has a generated negative"):
        arm_rows("mined", [row("1", mined=2, generated=0)], None, 1)
    rows = [row("1", mined=2, generated=1), row("2", mined=2, generated=1)]
    with pytest.raises(InputError, match="lacks the query '2'"):
        arm_rows("naive", rows, rows[:1], 1)


def test_a_slice_of_queries_without_a_relevant_passage_is_refused(tmp_path: Path) -> None:
    found = RetrievalSet(
        name="t", passages={"p": "p"}, queries={"a": "a", "b": "b"}, qrels={"a": {"p": 1}, "b": {"p": 0}}
    )
    (tmp_path / "s.txt").write_text("b\n")
    with pytest.raises(InputError, match=r"s\.txt: names no test query that has a relevant passage"):
        _read_slice(tmp_path / "s.txt", found)
    (tmp_path / "s.txt").write_text("b\na\n")
    assert _read_slice(tmp_path / "s.txt", found) == {"a", "b"}


def test_the_interval_over_seeds_and_queries() -> None:
    rng = np.random.default_rng(0)
    by_query = rng.random(50)
    same = seeds_and_queries_interval(np.stack([by_query] * 3))
    plain = bootstrap_interval(by_query)
    assert (same.mean, same.low, same.high) == pytest.approx((plain.mean, plain.low, plain.high), abs=0.01)
    # Seeds that disagree widen it.
    shifted = seeds_and_queries_interval(np.stack([by_query - 0.3, by_query, by_query + 0.3]))
    assert shifted.low < same.low - 0.05 and shifted.high > same.high + 0.05
    with pytest.raises(ValueError, match="at least one value"):
        seeds_and_queries_interval(np.empty((0, 3)))


def test_the_plot_puts_every_arm_and_measure_in_its_place() -> None:
    def arm(mean: float) -> dict[str, dict[str, float]]:
        return {name: {"mean": mean, "low": mean - 0.1, "high": mean + 0.1} for name in ("ndcg@10", "accuracy@1")}

    result = {
        "arms": {"mined": {"measures": arm(0.5)}},
        "against_mined": {"zero-shot": arm(-0.3), "b": arm(0.0), "a < b & c": arm(0.3)},
        "test": {"queries": 7, "passages": 9},
    }
    drawn = ElementTree.fromstring(str(ablation_plot(result, ("ndcg@10", "accuracy@1"))))
    kinds = {kind: drawn.findall(f".//{{*}}*[@class='{kind}']") for kind in ("name", "point", "span", "mined")}
    assert [text.text for text in kinds["name"]] == ["zero-shot", "b", "a < b & c"]
    dots = [float(dot.attrib["cx"]) for dot in kinds["point"]]
    # Two panels of three dots, evenly spaced as the means are; the dashed line runs through the one without difference.
    for left, middle, right in (dots[:3], dots[3:]):
        assert right - middle == pytest.approx(middle - left, abs=0.2) and middle > left
    assert [float(line.attrib["x1"]) for line in kinds["mined"]] == [dots[1], dots[4]]
    assert all(float(s.attrib["x1"]) < dot < float(s.attrib["x2"]) for s, dot in zip(kinds["span"], dots, strict=True))


@pytest.mark.slow
def test_an_ablation_runs_resumes_and_prints_its_table(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    corpus = list(demo_train_set().passages.values())
    rows = []
    for i, item in enumerate(demo_items()[:8]):
        mined = tuple(Negative(text=corpus[40 + 10 * i + k], source="mined") for k in range(6))
        rows.append(replace(item.row, negatives=mined + item.row.negatives))
    write_rows(tmp_path / "rows.jsonl", rows)
    dev = demo_family_set("dev")
    write_beir(tmp_path / "dev", dev, "dev")
    few = list(dev.queries)[:7]
    other = replace(dev, queries={q: dev.queries[q] for q in few}, qrels={q: dev.qrels[q] for q in few})
    write_beir(tmp_path / "other", other, "dev")
    hard = sorted(dev.queries)[:5]
    (tmp_path / "hard.txt").write_text("\n".join(hard) + "\n", encoding="utf-8")
    argv = [
        "ablate", f"rows={tmp_path}/rows.jsonl", f"test={tmp_path}/dev", "test-split=dev", f"dev={tmp_path}/dev",
        f"out={tmp_path}/out", f"model={tiny_bert}", "seeds=2", "epochs=1", "batch-size=4", "num-mined=2",
        f"slices={tmp_path}/hard.txt", f"transfer={tmp_path}/other", "generated-weights=",
    ]  # fmt: skip
    assert run_command(COMMANDS, argv) == 0
    shown = capsys.readouterr().out
    assert "mined + naive" in shown and "no LM given" in shown
    assert "have fewer texts" not in shown
    result = read_ablation(tmp_path / "out")
    arms = ["zero-shot", "mined", "mined + counterfactual", "mined + counterfactual + entropy 0.05"]
    arms.append("mined + counterfactual, graded 8")
    assert list(result["arms"]) == arms
    # Both choices of weights, on the test, on another corpus and on the hard queries of the test.
    others = {
        "dev/dev, last step": 40, "other/dev, best on dev": 7, "other/dev, last step": 7,
        "hard of dev/dev, best on dev": 5, "hard of dev/dev, last step": 5,
    }  # fmt: skip
    assert {title: table["test"]["queries"] for title, table in result["tables"].items()} == others
    assert all(list(table["arms"]) == arms and title in shown for title, table in result["tables"].items())
    on_hard = result["tables"]["hard of dev/dev, best on dev"]["per_query"]["mined"][1]["ndcg@10"]
    assert on_hard == {query: result["per_query"]["mined"][1]["ndcg@10"][query] for query in hard}
    assert result["arms"]["zero-shot"]["seeds"] == 1 and result["arms"]["mined"]["seeds"] == 2
    assert len(result["per_query"]["mined"][1]["ndcg@10"]) == 40
    pair = result["against_mined"]["zero-shot"]["ndcg@10"]
    means = {name: arm["measures"]["ndcg@10"]["mean"] for name, arm in result["arms"].items()}
    assert pair["mean"] == pytest.approx(means["zero-shot"] - means["mined"])
    assert pair["p"] <= pair["p_holm"] <= 1
    assert ablation_table(result) in shown
    drawn = ElementTree.parse(tmp_path / "out" / "ablation.svg").getroot()
    difference = result["against_mined"]["mined + counterfactual"]["ndcg@10"]["mean"]
    assert f"mined + counterfactual: nDCG@10 {difference:+.3f}" in drawn.attrib["aria-label"]
    assert len(list(read_rows(tmp_path / "out" / "arms" / "mined" / "seed-0" / "rows.jsonl"))) == 8

    # The finished ones are not run again; a missing one is; a changed setting makes all of its kind stale.
    scores = sorted((tmp_path / "out").glob("arms/*/*/scores.json"))
    times = {path: path.stat().st_mtime_ns for path in scores}
    scores[0].unlink()
    assert "finished already" not in caplog.text
    assert run_command(COMMANDS, argv) == 0
    assert f"{len(scores) - 1} of {len(scores)} runs were finished already" in caplog.text
    assert [path for path in scores if path.stat().st_mtime_ns != times[path]] == [scores[0]]
    again = json.loads((tmp_path / "out" / "ablation.json").read_text(encoding="utf-8"))
    assert again["per_query"] == result["per_query"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeds=1", "--seeds: expected at least 2"),
        ("entropy-weights=a,b", "--entropy-weights: expected a number, got 'a'"),
        ("entropy-weights=0", "--entropy-weights: expected a number above 0"),
        ("generated-weights=0", "--generated-weights: expected a number above 0"),
        ("grade-sharpness=0", "--grade-sharpness: expected a number above 0"),
        ("num-mined=-1", "--num-mined: expected at least 0"),
        ("slices=a/hard.txt,b/hard.txt", "--slices: expected files of different names, got 'a/hard.txt, b/hard.txt'"),
        ("seeds=2", "no_such.jsonl: cannot read"),
    ],
)
def test_bad_input_is_one_line(word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["ablate", "rows=no_such.jsonl", "dev=d", "test=t", f"out={tmp_path}/out", word]
    assert run_command(COMMANDS, argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ablation.json").write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(InputError, match="has format 0"):
        read_ablation(tmp_path)


def test_a_folder_that_another_one_works_in_is_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(InputError, match="another process is working in this folder"):
        run_ablate(config(out=tmp_path))
