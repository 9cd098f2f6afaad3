import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data.base.files import read_json_object, write_json
from data.base.text import content_id
from data.row_files import write_objects, write_rows
from evals.__main__ import main
from evals.report.config import ReportConfig
from evals.report.page import effect, render, report
from evals.report.run_folder import num_used, read_run_folder
from tests.evals.run_folders import EVIL, EVIL_QUERY, demo_summary, interval, rows, synthesis_summary, write_run
from tests.evals.synthetic import generated, row


class Page(HTMLParser):
    """Collects scripts, tags with their attributes, and text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words += f"{data} "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "my <run>")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A run of eight rows, to be changed."""
    return write_run(tmp_path / "run", num_rows=8)


def words_of(folder: Path) -> str:
    """The text of the folder's page, one space between words."""
    return " ".join(Page(render(read_run_folder(folder), "title")).words.split())


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return report(ReportConfig(run=run)).read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_allows_only_its_own_script(text: str) -> None:
    page = Page(text)
    loading = [(tag, a) for tag, a in page.tags for name in ("src", "href", "srcset", "action") if name in a]
    assert all(a.get("href", "").startswith(("#", "data:,")) for _, a in loading), loading
    assert "http://" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)
    assert "https://" not in text
    assert "@import" not in text and "url(" not in text
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'")
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]


def test_texts_of_the_run_stay_texts(text: str) -> None:
    page = Page(text)
    assert len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    assert any(EVIL in passage for passage in data["passages"])
    assert data["queries"][0]["query"] == EVIL_QUERY
    assert "img" not in {tag for tag, _ in page.tags}
    assert "my <run>" in page.words
    assert "bundled:<x>" in page.words


def test_every_section_shows_its_part(text: str) -> None:
    words = " ".join(Page(text).words.split())
    for expected in (
        "entropy no significant difference: -0.010 [-0.060, +0.040], p = 0.400 against mined only",
        "entropy against mined only nDCG@10 -0.010 [-0.060, +0.040] 0.400 no significant difference",
        "violations planned 61 1 lost: the verifier says that it answers the query",
        "accepted 60 30 lost: left out of training (duplicates, or more than a row may have)",
        "used in training 30",
        "Faults on the way, mended or not: malformed 1.",
        "This verifier misses 1 of 10 known positives.",
        "Of 40 mined negatives that the verifier judged, 2 answer their query: 2 became further positives",
        "5.0% [1.4%, 16.5%]",
        "10.0% [1.8%, 40.4%]",
        "Not audited by hand",
        "price unknown for each accepted negative no price is listed; 16 tokens each",
        "generator openai/<some> 9 900 90 unknown rate limit 2",
        "before training: model-before",
        "intent drift 30",
        "Before training, the score alone holds",
        "grade passages before [95% interval] after [95% interval] 0 30",
        "gradient of whole model, degrees 40.0 40.0",
    ):
        assert expected in words, expected


def test_a_training_has_the_name_and_the_colour_of_its_arm(text: str) -> None:
    assert re.search(r'class="key a1"[^>]*/></svg>mined only</li>', text)
    assert 'class="line a1"' in text


def test_an_unknown_price_is_never_shown_as_nothing(text: str) -> None:
    assert "0.0000 USD" not in text and "0 USD" not in text


def test_refused_candidates_and_scores_reach_the_browser(run: Path, text: str) -> None:
    queries = json.loads(Page(text).scripts[0])["queries"]
    refused = [n for n in queries[1]["negatives"] if n["source"] == "refused"]
    assert [n["reason"] for n in refused] == ["it answers"]
    assert set(queries[0]["scores"]) == {"before", "after"}
    assert all(set(n["scores"]) == {"before", "after"} for n in queries[2]["negatives"])


@pytest.mark.parametrize(
    ("low", "p_value", "words"),
    [
        (-0.001, 0.01, "no significant difference"),
        (0.001, 0.01, "significantly better"),
        (0.001, 0.06, "no significant difference"),
    ],
)
def test_a_difference_that_another_seed_may_undo_is_not_significant(low: float, p_value: float, words: str) -> None:
    assert effect({"difference": {"mean": 0.02, "low": low, "high": 0.04}, "p_value": p_value}) == words


def test_an_audit_is_shown_without_another_diagnosis(small: Path) -> None:
    assert "Not audited by hand: no audit has been made" in words_of(small)
    used = rows(8)
    answers = [
        {"id": content_id(used[r].query, used[r].negatives[2].text), "kind": "generated", "verifier": False,
         "answer": answer}
        for r, answer in enumerate(["no", "no", "yes"])
    ]  # fmt: skip
    write_objects(small / "diagnostics" / "audit.jsonl", answers)
    assert "1 of 3 generated negatives answer the query after all" in words_of(small)


def test_a_training_in_the_folder_train_is_shown(tmp_path: Path) -> None:
    points = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "dev_ndcg_at_10": 0.7}]
    write_objects(tmp_path / "train" / "metrics.jsonl", points)
    write_json(tmp_path / "train" / "config.json", {"lr": 2e-5})
    run = read_run_folder(tmp_path)
    assert run.curves == {"train": points}
    assert run.configs == {"training: train": {"lr": 2e-5}}


def test_what_is_missing_is_never_none_in_words(tmp_path: Path) -> None:
    write_objects(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 0.5}])
    words = words_of(tmp_path)
    assert "Not here: no synthesis is in this folder" in words
    assert "None" not in words


def test_scores_of_an_older_version_are_left_out_and_the_rest_stays(small: Path) -> None:
    old = {"query_id": "q0", "scores": {"after": {"positives": [0.9], "negatives": [0.1, 0.2, 0.3]}}}
    write_objects(small / "diagnostics" / "scores.jsonl", [old])
    run = read_run_folder(small)
    assert run.diagnostics is not None and not run.scores
    assert "scores.jsonl:1: not a line of scores: run `diagnose` again" in run.absent["scores"]


@pytest.mark.parametrize("part", ["synthesis", "train", "diagnostics", "summary.json"])
def test_a_missing_part_is_said_plainly(small: Path, tmp_path: Path, part: str) -> None:
    (small / part).rename(tmp_path / "gone")
    reason = {
        "synthesis": "no synthesis is in this folder",
        "train": "no training is in this folder",
        "diagnostics": "no diagnostics have been made",
        "summary.json": "no comparison of trained models is in this folder",
    }[part]
    assert reason in words_of(small)


def test_rows_alone_make_a_page(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row(0, [generated("a passage", answers=None)])])
    page = Page(render(read_run_folder(tmp_path), "rows"))
    assert "no synthesis is in this folder" in page.words
    assert json.loads(page.scripts[0])["queries"][0]["negatives"][0]["fate"] == "accepted"


def test_an_eval_of_the_run_is_shown_and_a_loss_as_plainly_as_a_gain(tmp_path: Path) -> None:
    found = {
        "config": {"model": "out/model", "baseline": "before", "data": "corpus", "split": "test"},
        "num_queries": 7,
        "intervals": {"ndcg@10": interval(0.6), "map": interval(0.5)},
        "baseline": {
            "intervals": {"ndcg@10": interval(0.7), "map": interval(0.45)},
            "comparisons": {
                "ndcg@10": {"difference": interval(-0.06), "p_value": 0.001, "num_queries": 7},
                "map": {"difference": interval(0.06), "p_value": 0.002, "num_queries": 7},
            },
        },
    }
    write_json(tmp_path / "eval.json", found)
    words = words_of(tmp_path)
    assert "corpus, test: 7 queries." in words
    assert "out/model against before nDCG@10 -0.060 [-0.110, -0.010] 0.001 significantly worse" in words
    assert "out/model against before MAP +0.060 [+0.010, +0.110] 0.002 significantly better" in words
    write_json(tmp_path / "eval.json", {name: value for name, value in found.items() if name != "baseline"})
    words = words_of(tmp_path)
    assert "0.600" in words and "compared with nothing" in words and "against" not in words


def test_an_ablation_folder(tmp_path: Path) -> None:
    measures = {m: interval(0.7) for m in ("ndcg@10", "accuracy@1", "map")}
    ablation = {
        "format": 1,
        "config": {"seeds": 5},
        "missing": {"mined + naive": "no LM given"},
        "arms": {name: {"seeds": 5, "measures": measures} for name in ("zero-shot", "mined", "mined + counterfactual")},
        "against_mined": {
            "mined + counterfactual": {m: interval(0.06) | {"p": 0.001, "p_holm": 0.002} for m in measures}
        },
    }
    write_json(tmp_path / "ablation.json", ablation)
    words = words_of(tmp_path)
    assert "its 95% interval over queries and 5 training seeds" in words
    assert "mined + naive: no LM given." in words
    assert "mined + counterfactual against mined nDCG@10 +0.060 [+0.010, +0.110] 0.002 significantly better" in words


def test_an_older_format_is_said_in_its_section_and_the_rest_is_shown(small: Path) -> None:
    write_json(small / "diagnostics" / "diagnostics.json", {"format": 0})
    write_json(small / "synthesis" / "summary.json", {"funnel": {"rows": 3}, "verifier": {}})
    write_json(small / "summary.json", {"test": {"arm": {"ndcg@10": 0.5}}})
    words = words_of(small)
    assert "has format 0, expected 1" in words
    assert "not the summary of a synthesis that this version knows" in words
    assert "in a form that this version does not know" in words


@pytest.mark.parametrize("gone", ["margins", "hardness", "leak"])
def test_diagnostics_with_a_part_gone_are_said_to_be_unknown(small: Path, gone: str) -> None:
    found = read_json_object(small / "diagnostics" / "diagnostics.json")
    del found["encoders"]["after"][gone]
    write_json(small / "diagnostics" / "diagnostics.json", found)
    # Without the leak all the rest can be shown.
    assert ("in a form that this version does not know" in words_of(small)) == (gone != "leak")


@pytest.mark.parametrize("canaries", [0, 10])
def test_an_empty_synthesis_divides_nothing_by_zero(tmp_path: Path, canaries: int) -> None:
    summary = synthesis_summary(1)
    summary["funnel"] |= {"violations_planned": 0, "accepted": 0, "requirements": 0, "lost": {}}
    summary["usage"] |= {"cost_usd": 0.0, "tokens_per_accepted": None}
    if not canaries:
        summary["verifier"] |= {"canaries": 0, "missed": 0, "miss_rate": None, "miss_rate_interval_95": [0.0, 1.0]}
    write_json(tmp_path / "summary.json", summary)
    write_rows(tmp_path / "rows.jsonl", [row(0, [])])
    assert "nothing was planned" in words_of(tmp_path)


def test_a_thousand_queries_stay_under_5_mb(tmp_path: Path) -> None:
    long = [
        row(r, [generated(f"{r} {n} " + "seventy words of a passage about files " * 12) for n in range(12)])
        for r in range(1000)
    ]
    write_rows(tmp_path / "rows.jsonl", long)
    page = render(read_run_folder(tmp_path), "large")
    assert len(page.encode()) < 5_000_000
    assert re.search(r"The first \d+ of 1000 queries, so that the page stays under 5 MB", page)


def test_num_used_counts_what_an_epoch_may_draw(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", rows(4))
    path = str(tmp_path / "rows.jsonl")
    assert num_used([{"rows": path, "max_generated": 1}, {"rows": path, "max_generated": 5}, {"lr": 1}]) == 8
    assert num_used([{"rows": "gone.jsonl", "max_generated": 1}]) is None


def test_the_command_and_its_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"run={tmp_path}/none"]) == 2
    assert "expected a run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["report", f"run={tmp_path}/empty"]) == 2
    assert "holds no run that this version knows" in capsys.readouterr().err
    (tmp_path / "empty" / "summary.json").write_text("{broken", encoding="utf-8")
    assert main(["report", f"run={tmp_path}/empty"]) == 2
    error = capsys.readouterr().err
    assert "not valid JSON" in error and error.count("\n") == 1
    write_json(tmp_path / "empty" / "summary.json", demo_summary())
    assert main(["report", f"run={tmp_path}/empty", f"out={tmp_path}/empty"]) == 2
    assert "expected a file name" in capsys.readouterr().err
    assert main(["report", f"run={tmp_path}/empty", f"out={tmp_path}/page.html", "title=A <title>"]) == 0
    assert "<h1>A &lt;title&gt;</h1>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert read_json_object(tmp_path / "empty" / "summary.json")


def test_how_far_the_ways_of_judging_agree_is_shown(small: Path) -> None:
    said = {"pairs": 40, "agree": 38, "kappa": 0.9, "interval_95": [0.7, 1.0]}
    summary = synthesis_summary(8) | {
        "agreement": {"rows": 8, "answers_query": said, "satisfied": said},
        "places": {"first": {"requirements": 30, "satisfied": 0.7, "interval_95": [0.5, 0.8]}},
    }
    write_json(small / "synthesis" / "summary.json", summary)
    words = words_of(small)
    assert "line-up and one by one on the same passages of 8 rows" in words
    assert "answers the query: 38 of 40 agree (kappa 0.90, 95% interval 0.70 to 1.00)" in words
    assert "first third 70.0% (50.0% to 80.0%)" in words
