"""The loop: it learns, repeats itself, stops when it must, and writes what it promises."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch

from data.base.errors import InputError
from data.base.files import folder_lock
from data.readers.beir import write_beir
from data.row_files import write_rows
from tests.trainer.runs import assert_same_gradients, assert_same_weights, one_step, small_run
from tests.trainer.tiny_data import dev_set, judged_rows, training_rows
from trainer import loop as train_module
from trainer.__main__ import _closing as closing
from trainer.config import TrainConfig
from trainer.encoder import Encoder
from trainer.encoder.packed import token_chunks
from trainer.loop import train
from trainer.run.dev import ndcg_at_10, rank_corpus
from trainer.step.gradients import accumulate_gradients, cached_backward
from trainer.step.optimizer import learning_rate


@pytest.fixture
def config(tiny_bert: Path, tmp_path: Path) -> TrainConfig:
    write_beir(tmp_path / "beir", dev_set(), "dev")
    return small_run(tiny_bert, tmp_path, dev=str(tmp_path / "beir"), epochs=3, lr=2e-3, in_batch="none", dropout=None)


def test_training_lowers_the_loss_and_writes_the_run_folder(config: TrainConfig) -> None:
    config = dataclasses.replace(config, epochs=6, dropout=0.0, lr=5e-3)
    result = train(config)
    out = Path(config.out)
    assert result.steps == 18 and result.last_loss < 0.5 * result.first_loss
    assert {path.name for path in out.iterdir()} == {
        ".causalneg.json",
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "summary.json",
    }
    assert json.loads((out / "summary.json").read_text()) == dataclasses.asdict(result)
    saved = json.loads((out / "config.json").read_text())
    assert TrainConfig(**saved | {"matryoshka": tuple(saved["matryoshka"])}) == config
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(19))
    scores = {line["step"]: line["dev_ndcg_at_10"] for line in metrics if "dev_ndcg_at_10" in line}
    assert sorted(scores) == [0, 3, 6, 9, 12, 15, 18]
    assert result.dev_before == scores.pop(0) and result.dev_after == max(scores.values()) == scores[result.best_step]
    assert all(0 <= line["entropy_ratio"] <= 1 + 1e-6 for line in metrics if "entropy_ratio" in line)
    assert metrics[1]["loss"] == pytest.approx(metrics[1]["info_nce"] + 0.05 * metrics[1]["query_view"], rel=1e-5)


def test_saved_model_is_the_best_one_by_dev(config: TrainConfig) -> None:
    result = train(dataclasses.replace(config, eval_every=1))
    best = Encoder.load(result.model, device="cpu")
    assert ndcg_at_10(rank_corpus(best, dev_set(), k=10), dev_set().qrels) == pytest.approx(result.dev_after)


def test_a_query_without_a_relevant_passage_is_not_scored() -> None:
    assert ndcg_at_10({"q": {"a": 1.0}, "z": {"a": 1.0}}, {"q": {"a": 1}, "z": {"a": 0}}) == 1.0
    assert ndcg_at_10({"q": {"a": 1.0}}, {"q": {"a": 1}, "unanswered": {"a": 2}}) == 0.5


def test_same_seed_same_weights_to_the_bit_and_other_seed_others(config: TrainConfig) -> None:
    first = train(config)
    again = train(dataclasses.replace(config, out=config.out + "2"))
    other = train(dataclasses.replace(config, out=config.out + "3", seed=1))
    assert_same_weights(first.model, again.model)
    with pytest.raises(AssertionError):
        assert_same_weights(first.model, other.model)
    assert first.last_loss == again.last_loss


def test_a_finished_run_is_read_without_loading_anything(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = train(config)
    with monkeypatch.context() as patch:
        for name in ("read_data", "load_encoder"):
            patch.delattr(train_module, name)
        assert train(config) == first
        assert "finished: nothing was trained" in caplog.text
        with pytest.raises(InputError, match=r"holds a run with other settings \(--epochs was 3, now 1\)"):
            train(dataclasses.replace(config, epochs=1))
    assert train(dataclasses.replace(config, restart=True)).last_loss == first.last_loss
    assert train(dataclasses.replace(config, epochs=1, restart=True)).steps == 3


def test_a_finished_run_is_not_taken_for_one_on_what_its_file_of_rows_holds_now(config: TrainConfig) -> None:
    train(config)
    lines = Path(config.rows).read_text().splitlines(keepends=True)
    Path(config.rows).write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"holds a finished run on what .* held before"):
        train(config)
    assert train(dataclasses.replace(config, restart=True)).num_rows == len(lines) - 1


@pytest.mark.parametrize("max_tokens", [1, 100, 400])
def test_parts_of_a_batch_add_up_to_its_gradient(config: TrainConfig, max_tokens: int) -> None:
    config = dataclasses.replace(config, batch_size=12, entropy_weight=0.5)
    whole, report = one_step(config)
    parts, parts_report = one_step(dataclasses.replace(config, max_tokens_per_step=max_tokens))
    assert parts_report.loss == pytest.approx(report.loss, rel=1e-12)
    assert_same_gradients(parts, whole)


def test_accumulated_batches_are_one_large_batch(config: TrainConfig) -> None:
    large, report = one_step(dataclasses.replace(config, batch_size=12))
    small, small_report = one_step(dataclasses.replace(config, batch_size=4, grad_accumulation=3))
    assert small_report.loss == pytest.approx(report.loss, rel=1e-12)
    assert_same_gradients(small, large)


@pytest.mark.parametrize("mode", ["in-batch", "cross-device"])
def test_in_batch_negatives_raise_the_loss_and_train(config: TrainConfig, mode: str) -> None:
    _, alone = one_step(config)
    _, together = one_step(dataclasses.replace(config, in_batch=mode))
    assert together.loss > alone.loss
    result = train(dataclasses.replace(config, in_batch=mode))
    assert result.last_loss < result.first_loss


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_caching_equals_one_graph_over_all_texts(config: TrainConfig, dropout: float) -> None:
    def in_one_graph(encoder, tokens, max_tokens, embeddings_gradient):  # type: ignore[no-untyped-def]
        parts = token_chunks(tokens, max_tokens, padded=False)
        whole = torch.cat([encoder([tokens[i] for i in part]) for part in parts])
        order = torch.tensor([i for part in parts for i in part])
        whole = whole[order.argsort()]
        whole.backward(embeddings_gradient(whole.detach()))

    config = dataclasses.replace(config, in_batch="in-batch", batch_size=12, max_tokens_per_step=60, entropy_weight=0.5)
    torch.manual_seed(5)
    cached, report = one_step(config, dropout=dropout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.step.gradients.cached_backward", in_one_graph)
        torch.manual_seed(5)
        plain, plain_report = one_step(config, dropout=dropout)
    assert report.loss == pytest.approx(plain_report.loss, rel=1e-12)
    assert_same_gradients(cached, plain)


@pytest.mark.parametrize(("max_tokens", "times"), [(24, 1), (23, 2), (5, 2)])
def test_graphs_are_kept_where_all_texts_fit_and_else_encoded_twice(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, max_tokens: int, times: int
) -> None:
    encoder = Encoder.load(config.model).train()
    monkeypatch.setattr(encoder, "part_tokens", lambda most: 6)
    encoded: list[int] = []
    encoder.register_forward_pre_hook(lambda _, arguments: encoded.extend(ids[1] for ids in arguments[0]))
    # Each text is a part of its own, the longest first.
    cached_backward(encoder, [(2, text, 3, 3, 3, 3) for text in (5, 6, 7, 8)], max_tokens, torch.ones_like)
    assert [encoded.count(text) for text in (5, 6, 7, 8)] == [times] * 4


def test_entropy_weight_zero_is_info_nce_alone(config: TrainConfig) -> None:
    train(dataclasses.replace(config, entropy_weight=0.0, epochs=1))
    for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()[1:]:
        metrics = json.loads(line)
        assert metrics["loss"] == metrics["info_nce"]


def test_what_is_left_open_follows_the_relevance_and_the_preset(config: TrainConfig) -> None:
    def loss(**values: object) -> tuple[float, float, bool]:
        setting = TrainConfig(rows="r", out="o", **values).loss  # type: ignore[arg-type]
        return setting.generated_weight, setting.entropy_weight, setting.graded

    assert loss() == (0.1, 0.05, False)
    assert loss(relevance="graded") == (1.0, 0.0, True)
    assert loss(preset="paper") == (1.0, 0.05, False)
    assert loss(preset="paper", entropy_weight=0.5, generated_weight=0.3) == (0.3, 0.5, False)
    assert loss(relevance="graded", generated_weight=0.1, entropy_weight=0.05) == (0.1, 0.05, True)


@pytest.mark.parametrize("values", [{}, {"in_batch": "in-batch"}, {"lora_rank": 2}, {"mask_above": 0.05}])
def test_graded_relevance_trains_and_keeps_order(config: TrainConfig, values: dict) -> None:
    if "lora_rank" in values:
        pytest.importorskip("peft")
    write_rows(config.rows, judged_rows())
    config = dataclasses.replace(
        config, relevance="graded", grade_mined=True, grade_sharpness=4.0, dev=None, epochs=8, **values
    )
    result = train(config)
    assert result.last_loss < result.first_loss
    metrics = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()[1:]]
    assert all(("num_masked" in line) == ("mask_above" in values) for line in metrics)
    assert "graded InfoNCE" in (Path(result.model) / "README.md").read_text()


@pytest.mark.parametrize("mode", ["none", "in-batch", "cross-device"])
def test_parts_add_up_with_grades_and_a_mask(config: TrainConfig, mode: str) -> None:
    config = dataclasses.replace(
        config, batch_size=12, relevance="graded", grade_mined=True, mask_above=0.01, in_batch=mode
    )
    whole, report = one_step(config, judged_rows())
    parts, parts_report = one_step(dataclasses.replace(config, max_tokens_per_step=60), judged_rows())
    plain = dataclasses.replace(config, relevance="plain", grade_mined=False)
    _, plain_report = one_step(plain, judged_rows())
    assert parts_report.loss == pytest.approx(report.loss, rel=1e-12) and report.loss != plain_report.loss
    assert_same_gradients(parts, whole)


def test_grades_of_unjudged_generated_negatives_are_asked_for(config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"in 9 of 12 rows.*'boiler-days'.*just verify") as caught:
        train(dataclasses.replace(config, relevance="graded"))
    assert "\n" not in str(caught.value)


def test_without_dev_the_last_weights_are_saved(config: TrainConfig) -> None:
    result = train(dataclasses.replace(config, dev=None))
    assert result.best_step == result.steps == 9
    assert result.dev_before is None and result.dev_after is None


def test_early_stopping_counts_evaluations_without_gain(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.5, 0.6, 0.6, 0.55, 0.9])
    monkeypatch.setattr(train_module, "dev_scores", lambda *_: {"dev_ndcg_at_10": next(scores)})
    result = train(dataclasses.replace(config, eval_every=1, patience=2))
    assert (result.steps, result.best_step, result.dev_after) == (4, 2, 0.6)


def test_a_run_that_dies_after_its_last_step_does_not_go_on_training(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, eval_every=1, checkpoint_every=1, patience=2)

    def run(scores: list[float], out: str) -> train_module.TrainResult:
        coming = iter(scores)
        monkeypatch.setattr(train_module, "dev_scores", lambda *_: {"dev_ndcg_at_10": next(coming)})
        return train(dataclasses.replace(config, out=out))

    scores = [0.1, 0.5, 0.6, 0.6, 0.55]
    whole = run(scores, config.out + "-whole")
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "save", lambda *_: (_ for _ in ()).throw(InputError("No space left on device")))
        with pytest.raises(InputError, match="No space left"):
            run(scores, config.out)
    resumed = run([0.9], config.out)
    assert (resumed.steps, resumed.best_step, resumed.dev_after) == (whole.steps, whole.best_step, whole.dev_after)
    assert_same_weights(whole.model, resumed.model)


def test_bad_lines_of_dev_data_are_skipped_on_demand(config: TrainConfig, tmp_path: Path) -> None:
    pairs = tmp_path / "dev.jsonl"
    line = {"query": "how long can we restore deleted files", "positive": "Deleted files: 30 days."}
    pairs.write_text(json.dumps(line) + "\nno JSON\n")
    asked = dataclasses.replace(config, dev=str(pairs), epochs=1)
    with pytest.raises(InputError, match="not valid JSON"):
        train(asked)
    assert train(dataclasses.replace(asked, skip_bad_rows=True)).dev_after == 1.0


def test_a_loss_that_is_not_finite_stops_before_the_step(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: list[Encoder] = []
    before: list[torch.Tensor] = []
    real = accumulate_gradients

    def broken(encoder: Encoder, *rest: object) -> object:
        report = real(encoder, *rest)  # type: ignore[arg-type]
        encoders.append(encoder)
        before.append(torch.cat([p.detach().flatten().clone() for p in encoder.parameters()]))
        return dataclasses.replace(report, loss=float("nan")) if len(encoders) == 2 else report

    monkeypatch.setattr(train_module, "accumulate_gradients", broken)
    with pytest.raises(InputError, match=r"step 2: the loss is nan.*lower --lr"):
        train(config)
    after = torch.cat([p.detach().flatten() for p in encoders[-1].parameters()])
    assert torch.equal(before[-1], after)
    assert not (Path(config.out) / "model").exists() and not (Path(config.out) / "summary.json").exists()


def test_a_folder_that_holds_something_else_is_left_alone(config: TrainConfig) -> None:
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        train(config)
    assert [path.name for path in Path(config.out).iterdir()] == ["thesis.txt"]


def test_rows_without_any_negative_need_in_batch(config: TrainConfig) -> None:
    write_rows(config.rows, [dataclasses.replace(row, negatives=()) for row in training_rows()])
    with pytest.raises(InputError, match=r"no negatives in any row.*--in-batch"):
        train(config)
    with pytest.raises(InputError, match="more than one row in a batch"):
        train(dataclasses.replace(config, in_batch="in-batch", batch_size=1))
    assert not Path(config.out).exists()
    assert train(dataclasses.replace(config, in_batch="in-batch", epochs=1)).steps == 3


def test_leakage_between_rows_and_dev_is_reported(config: TrainConfig, caplog: pytest.LogCaptureFixture) -> None:
    leaked = dataclasses.replace(training_rows()[0], query="Can we restore  bin days")
    write_rows(config.rows, [leaked, *training_rows()[1:]])
    with caplog.at_level(logging.WARNING):
        result = train(dataclasses.replace(config, epochs=1))
    assert result.leaked_queries == 1
    assert "1 of 10 evaluation queries" in caplog.text


def test_texts_longer_than_the_model_takes_are_cut_counted_and_reported(config: TrainConfig) -> None:
    config = dataclasses.replace(config, dev=None, epochs=1)
    whole = train(config)
    assert whole.num_truncated == 0 and "cut off" not in closing(whole)
    cut = train(dataclasses.replace(config, max_length=6, out=config.out + "-cut"))
    encoder = Encoder.load(config.model, device="cpu")
    texts = [(text, role) for row in training_rows() for text, role in (
        (row.query, "query"), (row.positives[0].text, "document"), *((n.text, "document") for n in row.negatives)
    )]  # fmt: skip
    # Equal passages of a batch are counted once, so this is a bound.
    longer = sum(len(encoder.tokenize([text], role)[0]) > 6 for text, role in texts)  # type: ignore[arg-type]
    assert 0 < cut.num_truncated <= longer
    assert f"{cut.num_truncated} times a text was longer than the model takes and was cut off" in closing(cut)


def test_learning_rate_rises_and_falls_linearly() -> None:
    config = TrainConfig(rows="-", out="-", lr=1.0, warmup_ratio=0.2)
    rates = [learning_rate(step, 10, config) for step in range(1, 11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    flat = TrainConfig(rows="-", out="-", lr=1.0, warmup_ratio=0.0)
    assert learning_rate(1, 4, flat) == 1.0 and learning_rate(4, 4, flat) == 0.25
    assert learning_rate(4, 4, dataclasses.replace(config, warmup_ratio=1.0)) == 1.0


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"temperature": 0.0}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"entropy_temperature": -1.0}, "--entropy-temperature"),
        ({"generated_weight": 0.0}, "--generated-weight"),
        ({"entropy_weight": -0.1}, "--entropy-weight"),
        ({"grade_sharpness": 0.0}, "--grade-sharpness"),
        ({"grade_sharpness": 4.0}, "--grade-sharpness: expected --relevance graded with it"),
        ({"grade_mined": True}, "--grade-mined: expected --relevance graded with it"),
        ({"remine_like": "report.json"}, "--remine-like: expected --remine-every with it"),
        ({"mask_above": -0.1}, "--mask-above"),
        ({"epochs": 0}, "--epochs"),
        ({"batch_size": 0}, "--batch-size"),
        ({"lr": 0.0}, "--lr"),
        ({"warmup_ratio": 1.5}, "--warmup-ratio"),
        ({"dropout": 1.0}, "--dropout"),
        ({"patience": 2}, "--patience"),
        ({"max_tokens_per_step": 0}, "--max-tokens-per-step"),
    ],
)
def test_bad_settings_name_their_flag(values: dict, flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        TrainConfig(**({"rows": "r", "out": "o"} | values))


def test_two_trainings_do_not_work_in_one_folder(config: TrainConfig) -> None:
    with folder_lock(config.out), pytest.raises(InputError, match="another process is working in this folder"):
        train(config)
