"""The training loop: rows in, the best encoder out. Read `train` from top to bottom."""

import itertools
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data.errors import InputError
from data.files import write_json
from data.jsonl import BadRows, read_rows
from data.leakage import find_leakage
from data.records import Row
from data.retrieval_set import RetrievalSet
from data.sources import read_source
from trainer.batches import Example, Examples
from trainer.checkpoints import load_weights, save_weights
from trainer.config import TrainConfig
from trainer.dev import ndcg_at_10, rank
from trainer.encoder import Encoder
from trainer.gradients import StepReport, accumulate_gradients
from trainer.progress import progress_bar

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to; saved as summary.json. `dev_*` is nDCG@10 on dev, None without dev data."""

    model: str
    steps: int
    best_step: int
    dev_before: float | None
    dev_after: float | None
    first_loss: float
    last_loss: float
    num_rows: int
    num_truncated: int
    leaked_queries: int
    leaked_passages: int
    seconds: float

    @property
    def model_folder(self) -> Path:
        """The trained encoder, a sentence-transformers folder."""
        return Path(self.model)


def train(config: TrainConfig) -> TrainResult:
    """Train and return the result; `config.out`/model holds the best encoder by dev nDCG@10 (the last one without dev).

    Raises InputError for bad input, for an `out` that already holds a run, and when the loss is no longer finite.
    """
    start = time.monotonic()
    out = Path(config.out)
    rows, dev = _read_data(config)
    examples = Examples(rows, config)
    _check_negatives(examples, config)
    leaked = find_leakage(rows, dev) if dev is not None else None
    if leaked:
        log.warning("warning: %s; the dev score will look better than it is", leaked.summary())
    encoder = Encoder.load(config.model, max_length=config.max_length, device=config.device, revision=config.revision)
    if config.dropout is not None:
        encoder.set_dropout(config.dropout)
    optimizer = _optimizer(encoder, config)
    steps_per_epoch = math.ceil(math.ceil(len(examples) / config.batch_size) / config.grad_accumulation)
    total_steps = config.epochs * steps_per_epoch
    eval_every = config.eval_every or steps_per_epoch
    _start_folder(config)
    metrics = (out / "metrics.jsonl").open("a", encoding="utf-8")
    best_file = out / "checkpoints" / "best.safetensors"

    num_mined, num_generated = examples.num_negatives
    log.info(
        "%d rows, %d mined and %d generated negatives an epoch, %d steps of %d rows",
        len(examples), num_mined, num_generated, total_steps, config.batch_size * config.grad_accumulation,
    )  # fmt: skip
    dev_before = _evaluate(encoder, dev)
    best_score, best_step, losses = -1.0, 0, []
    with metrics, progress_bar(total=total_steps, unit="step", desc="train") as bar:
        _log_metrics(metrics, step=0, dev_ndcg_at_10=dev_before)
        for step, batches in enumerate(_steps(examples, config), start=1):
            # Dropout depends on seed and step alone: a resumed run draws what an uninterrupted one would have drawn.
            torch.manual_seed(config.seed * 1_000_003 + step)
            encoder.train()
            optimizer.zero_grad(set_to_none=True)
            report = accumulate_gradients(encoder, batches, config)
            norm = torch.nn.utils.clip_grad_norm_(encoder.parameters(), config.clip or math.inf)
            if not (math.isfinite(report.loss) and math.isfinite(norm)):
                raise InputError(
                    f"step {step}: the loss is {report.loss}, its gradient's norm {float(norm)}; stopped before this "
                    f"step changed the weights (lower --lr, now {config.lr}, or raise --temperature)"
                )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total_steps, config)
            optimizer.step()
            losses.append(report.loss)
            bar.set_postfix_str(_note(report))
            bar.update()
            done = step == total_steps
            score = _evaluate(encoder, dev) if step % eval_every == 0 or done else None
            _log_metrics(metrics, step=step, lr=optimizer.param_groups[0]["lr"], grad_norm=float(norm),
                         **asdict(report), dev_ndcg_at_10=score)  # fmt: skip
            if score is not None and score > best_score:
                best_score, best_step = score, step
                save_weights(best_file, encoder.transformer)
            num_worse = (step - best_step) // eval_every
            if score is not None and config.patience and num_worse >= config.patience and not done:
                log.info("step %d: %d evaluations without a better dev nDCG@10, stopped", step, num_worse)
                break
    if dev is None:
        best_step = step
    elif best_step != step:
        load_weights(best_file, encoder.transformer)
    if dev_before is not None and best_score <= dev_before:
        log.warning("warning: training did not raise dev nDCG@10 (%.4f before, %.4f at best)", dev_before, best_score)
    encoder.save(out / "model")
    result = TrainResult(
        model=str(out / "model"),
        steps=step,
        best_step=best_step,
        dev_before=dev_before,
        dev_after=best_score if dev is not None else None,
        first_loss=losses[0],
        last_loss=losses[-1],
        num_rows=len(examples),
        num_truncated=encoder.num_truncated,
        leaked_queries=len(leaked.queries) if leaked else 0,
        leaked_passages=len(leaked.relevant_passages) if leaked else 0,
        seconds=round(time.monotonic() - start, 2),
    )
    write_json(out / "summary.json", asdict(result))
    return result


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Linear warm-up from 0 and linear decay to 0; `step` counts from 1 and the last step still moves."""
    warmup = round(total_steps * config.warmup_ratio)
    if step <= warmup:
        return config.lr * step / warmup
    return config.lr * (total_steps - step + 1) / (total_steps - warmup)


def _read_data(config: TrainConfig) -> tuple[list[Row], RetrievalSet | None]:
    bad_rows = BadRows() if config.skip_bad_rows else None
    rows = list(read_rows(config.rows, bad_rows))
    if bad_rows is not None and bad_rows.count:
        log.warning("warning: %s", bad_rows.summary())
    if not rows:
        raise InputError("holds no rows", file=config.rows)
    return rows, None if config.dev is None else read_source(config.dev, config.dev_split)


def _check_negatives(examples: Examples, config: TrainConfig) -> None:
    num_without = examples.num_rows_without_negatives
    if num_without == len(examples) and config.in_batch == "none":
        raise InputError(
            "has no negatives in any row: mine or synthesize some, or train with --in-batch in-batch", file=config.rows
        )
    if num_without:
        log.warning("warning: %d of %d rows have no negatives of their own", num_without, len(examples))
    if examples.num_duplicates:
        log.info("%d negatives repeat a positive or another negative and are left out", examples.num_duplicates)


def _optimizer(encoder: Encoder, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr)


def _start_folder(config: TrainConfig) -> None:
    out = Path(config.out)
    found = [name for name in ("config.json", "checkpoints", "model", "summary.json") if (out / name).exists()]
    if found and not config.restart:
        raise InputError(f"already holds a run ({', '.join(found)}): choose another --out, or --restart", file=out)
    for name in found:
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (out / "metrics.jsonl").unlink(missing_ok=True)
    write_json(out / "config.json", asdict(config))


def _steps(examples: Examples, config: TrainConfig) -> Iterator[list[list[Example]]]:
    for epoch in range(config.epochs):
        batches = examples.epoch(epoch)
        while step := list(itertools.islice(batches, config.grad_accumulation)):
            yield step


def _evaluate(encoder: Encoder, dev: RetrievalSet | None) -> float | None:
    return None if dev is None else ndcg_at_10(rank(encoder, dev, k=10), dev.qrels)


def _note(report: StepReport) -> str:
    view = "" if math.isnan(report.entropy_ratio) else (
        f", H/log|G| {report.entropy_ratio:.2f}, mass {report.generated_mass:.2f} (expected {report.expected_mass:.2f})"
    )  # fmt: skip
    return f"loss {report.loss:.3f}{view}"


def _log_metrics(file: Any, **values: Any) -> None:
    kept = {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }
    file.write(json.dumps(kept) + "\n")
    file.flush()
