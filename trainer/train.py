"""The training loop: rows in, the best encoder out. Read `_train` from top to bottom.

Nothing random is carried from step to step: order, samples and dropout follow from the seed and the step's number. That
is why a run that was killed goes on from its last checkpoint to the same weights, bit for bit.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from data.base.errors import InputError
from data.base.progress import progress_bar
from data.retrieval_set import find_leakage
from trainer.config import TrainConfig
from trainer.distributed import World, join_world
from trainer.encoder import Encoder
from trainer.publish.model_card import write_model_card
from trainer.run.checkpoints import Checkpoints, RunState
from trainer.run.dev import dev_scores
from trainer.run.remine import Remining
from trainer.run.run_folder import RunFolder, TrainResult
from trainer.run.setup import check_negatives, data_key, load_encoder, read_data
from trainer.step.batches import Example, Examples
from trainer.step.gradients import StepReport, accumulate_gradients
from trainer.step.optimizer import learning_rate, loss_scaler, make_optimizer

log = logging.getLogger(__name__)


def train(config: TrainConfig, *, at_last_step: Callable[[Encoder], None] | None = None) -> TrainResult:
    """Train and return the result; `config.out`/model holds the best encoder by dev nDCG@10 (the last one without dev).

    `at_last_step` gets the encoder as the last step left it, before the best weights by dev take its place; it is not
    called for a run that is only read. A stopped run is resumed by the same call; a finished one is only read. Under
    torchrun every process calls this.
    Raises InputError for bad input, for an `out` that holds another run, and when the loss is no longer finite.
    """
    with join_world(config.device) as (world, device):
        return _train(config, world, device, at_last_step)


def _train(
    config: TrainConfig, world: World, device: str | None, at_last_step: Callable[[Encoder], None] | None
) -> TrainResult:
    start = time.monotonic()
    if config.batch_size % world.size:
        raise InputError(f"--batch-size: expected a multiple of {world.size} processes, got {config.batch_size}")
    rows, dev = read_data(config)
    examples = Examples(rows, config)
    check_negatives(examples, config)
    leaked = find_leakage(rows, dev) if dev is not None else None
    if leaked:
        log.warning("warning: %s; the dev score will look better than it is", leaked.summary())
    encoder = load_encoder(config, device)
    world.copy_from_main(encoder.state_dict().values())
    optimizer, scaler = make_optimizer(encoder, config), loss_scaler(config.precision, encoder.device)
    remining = Remining(config, rows, examples) if config.remine_every else None
    steps_per_epoch = math.ceil(math.ceil(len(examples) / config.batch_size) / config.grad_accumulation)
    total_steps = config.epochs * steps_per_epoch
    eval_every, checkpoint_every = config.eval_every or steps_per_epoch, config.checkpoint_every or steps_per_epoch

    folder, checkpoints = RunFolder(config), Checkpoints(Path(config.out) / "checkpoints", config.keep_checkpoints)
    if world.is_main:
        folder.open(config.restart)
    world.wait()
    if (finished := folder.summary()) is not None:
        log.info("%s already holds this run, finished; --restart trains anew", config.out)
        return TrainResult(**finished)
    key = data_key(rows, remining.data.passages if remining else {})
    state = checkpoints.resume(encoder.transformer, optimizer, key, world.size)
    if world.is_main:
        folder.forget_metrics_after(state.step if state else -1)
    if state is None:
        scores = dev_scores(encoder, dev, config.matryoshka, world)
        state = RunState(data_key=key, num_processes=world.size, dev_before=scores.get("dev_ndcg_at_10"))
        if world.is_main:
            folder.log_metrics(step=0, **scores)
    else:
        log.info("resuming after step %d of %d", state.step, total_steps)
        scaler.load_state_dict(state.scaler)
        if remining and state.mined_RM is not None:
            remining.restore(state.mined_RM)
    _announce(examples, config, total_steps, world)

    before = state.seconds
    with progress_bar(total=total_steps, unit="step", desc="train", enabled=world.is_main, done=state.step) as bar:
        for step, batches in enumerate(_steps(examples, config), start=1):
            if step <= state.step:
                continue
            # Asked here, of what a checkpoint holds: a run that died on its last step must not go on either.
            if config.patience and (state.step - state.best_step) // eval_every >= config.patience:
                log.info("%d evaluations without a better dev nDCG@10: stopped at step %d", config.patience, state.step)
                break
            began = time.monotonic()
            torch.manual_seed(((config.seed * 1_000_003 + step) << 10) + world.rank)
            encoder.train()
            optimizer.zero_grad(set_to_none=True)
            report = accumulate_gradients(encoder, batches, config, world, scaler.scale)
            scaler.unscale_(optimizer)
            norm = float(torch.nn.utils.clip_grad_norm_(encoder.parameters(), config.clip or math.inf))
            # Scaled gradients may overflow: the scaler skips such a step and lowers its factor, at last below 1.
            overflow = scaler.is_enabled() and scaler.get_scale() >= 1 and not math.isfinite(norm)
            if not (math.isfinite(report.loss) and (math.isfinite(norm) or overflow)):
                raise InputError(
                    f"step {step}: the loss is {report.loss}, its gradient's norm {norm}; stopped before this step "
                    f"changed the weights (lower --lr, now {config.lr}, or raise --temperature)"
                )
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total_steps, config)
            scaler.step(optimizer)
            scaler.update()

            seconds = time.monotonic() - began
            state.step, state.last_loss, state.scaler = step, report.loss, scaler.state_dict()
            state.num_skipped += overflow
            state.first_loss = report.loss if step == 1 else state.first_loss
            bar.set_postfix_str(_note(report, seconds))
            bar.update()
            done = step == total_steps
            scores = dev_scores(encoder, dev, config.matryoshka, world) if step % eval_every == 0 or done else {}
            score = scores.get("dev_ndcg_at_10")
            mined = remining.mine(encoder, world) if remining and step % config.remine_every == 0 and not done else {}
            state.mined_RM = remining.mined_RM if remining else None
            state.num_truncated += report.num_truncated
            state.seconds = before + time.monotonic() - start
            if world.is_main:
                folder.log_metrics(step=step, lr=optimizer.param_groups[0]["lr"], grad_norm=norm, **asdict(report),
                                   seconds=round(seconds, 3), **scores, **mined,
                                   **({"loss_scale": scaler.get_scale()} if scaler.is_enabled() else {}))  # fmt: skip
            if score is not None and score > state.best_score:
                state.best_score, state.best_step = score, step
                if world.is_main:
                    checkpoints.save_best(step, encoder.transformer)
            if world.is_main and step % checkpoint_every == 0 and not done:
                checkpoints.save(state, encoder.transformer, optimizer)

    if at_last_step is not None and world.is_main:
        at_last_step(encoder)
    if dev is None:
        state.best_step = state.step
    elif state.best_step != state.step and world.is_main:
        checkpoints.load_best(state.best_step, encoder.transformer)
    if state.dev_before is not None and state.best_score <= state.dev_before:
        log.warning(
            "warning: training did not raise dev nDCG@10 (%.4f before, %.4f at best)",
            state.dev_before,
            state.best_score,
        )
    result = TrainResult(
        model=str(folder.model),
        steps=state.step,
        best_step=state.best_step,
        dev_before=state.dev_before,
        dev_after=state.best_score if dev is not None else None,
        first_loss=state.first_loss,
        last_loss=state.last_loss,
        num_rows=len(examples),
        num_truncated=state.num_truncated,
        num_skipped=state.num_skipped,
        leaked_queries=len(leaked.queries) if leaked else 0,
        leaked_passages=len(leaked.relevant_passages) if leaked else 0,
        seconds=round(state.seconds, 2),
    )
    if world.is_main:
        encoder.save(folder.model)
        write_model_card(folder.model, config, result, rows)
        folder.finish(asdict(result))
    world.wait()
    return result


def _announce(examples: Examples, config: TrainConfig, total_steps: int, world: World) -> None:
    num_mined, num_generated = examples.num_negatives
    rows_per_step = min(config.batch_size * config.grad_accumulation, len(examples))
    own = (num_mined + num_generated) / len(examples)
    together = {"none": 1, "in-batch": config.batch_size // world.size, "cross-device": config.batch_size}[
        config.in_batch
    ]
    log.info(
        "%d rows, %d steps of %d rows: about %.0f texts a step, %.1f negatives a query (%d mined, %d generated)",
        len(examples), total_steps, rows_per_step, rows_per_step * (2 + own),
        own + (min(together, len(examples)) - 1) * (1 + own), num_mined, num_generated,
    )  # fmt: skip


def _steps(examples: Examples, config: TrainConfig) -> Iterator[list[list[Example]]]:
    for epoch in range(config.epochs):
        batches = examples.epoch(epoch)
        while step := list(itertools.islice(batches, config.grad_accumulation)):
            yield step


def _note(report: StepReport, seconds: float) -> str:
    view = "" if math.isnan(report.entropy_ratio) else (
        f", H/log|G| {report.entropy_ratio:.2f}, mass {report.generated_mass:.2f} (expected {report.expected_mass:.2f})"
    )  # fmt: skip
    speed = f"{report.num_rows / seconds:.1f} rows/s, {report.num_tokens / seconds:.0f} tokens/s"
    return f"loss {report.loss:.3f}{view}, {speed}"
