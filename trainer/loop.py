"""The training loop: rows in, the best encoder out.

Order, samples and dropout follow from the seed and the step's number; nothing random is carried from step to step. So
a run that was killed goes on from its last checkpoint to the same weights, bit for bit.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

from data.base.errors import InputError
from data.base.fields import checked
from data.base.files import file_checksum, folder_lock
from data.base.progress import progress_bar
from data.retrieval_set import find_leakage
from trainer.config import TrainConfig
from trainer.distributed import World, join_world
from trainer.encoder import Encoder
from trainer.encoder.precision import autocast_type
from trainer.publish.model_card import write_model_card
from trainer.run.checkpoints import Checkpoints, RunState
from trainer.run.dev import dev_scores
from trainer.run.remine import Remining
from trainer.run.run_folder import RunFolder, TrainResult
from trainer.run.setup import check_negatives, data_key, load_encoder, read_data
from trainer.step.batches import Example, Examples
from trainer.step.gradients import StepReport, accumulate_gradients
from trainer.step.optimizer import choose_kernel, learning_rate, loss_scaler, make_optimizer

log = logging.getLogger(__name__)


def train(config: TrainConfig, *, at_last_step: Callable[[Encoder], None] | None = None) -> TrainResult:
    """Train and return the result; `config.out`/model holds the best encoder by dev nDCG@10 (the last one without dev).

    A stopped run is resumed by the same call; a finished one is only read. Under torchrun every process calls this.
    `at_last_step` gets the encoder as the last step left it, before the best weights by dev take its place.
    Raises InputError for bad input, for an `out` that holds another run, and when the loss is no longer finite.
    """
    with join_world(config.device) as (world, device), folder_lock(config.out) if world.is_main else nullcontext():
        folder = RunFolder(config)
        # Before anything is loaded; the folder of a new run is begun once all that it reads is known to be there.
        if folder.is_finished() and not config.restart:
            if world.is_main:
                folder.open(restart=False)
            result = checked(TrainResult, folder.summary(), file=f"{config.out}/summary.json")
            rows = Path(config.rows)
            if result.rows_checksum and rows.is_file() and file_checksum(rows) != result.rows_checksum:
                raise InputError(
                    f"holds a finished run on what {rows} held before: choose another --out, or --restart",
                    file=config.out,
                )
            log.info("%s already holds this run, finished: nothing was trained; --restart trains anew", config.out)
            return result
        run = _Run(config, world, device, folder)
        run.open_folder()
        run.begin_or_resume()
        run.announce()
        done = run.state.step
        with progress_bar(total=run.total_steps, unit="step", desc="train", enabled=world.is_main, done=done) as bar:
            for step, batches in itertools.islice(enumerate(run.batches(), start=1), done, None):
                if run.out_of_patience():
                    break
                began = time.monotonic()
                report, norm = run.step(step, batches)
                seconds = time.monotonic() - began
                bar.set_postfix_str(_note(report, seconds))
                bar.update()
                run.measure_and_save(report, norm, seconds)
        if at_last_step is not None and world.is_main:
            at_last_step(run.encoder)
        return run.finish()


class _Run:
    """What a run works with and what its loop calls; `state` is where it stands, as a checkpoint holds it."""

    def __init__(self, config: TrainConfig, world: World, device: str | None, folder: RunFolder):
        self._start = time.monotonic()
        if config.batch_size % world.size:
            raise InputError(f"--batch-size: expected a multiple of {world.size} processes, got {config.batch_size}")
        self.config, self.world = config, world
        self.rows, self.dev = read_data(config)
        self.rows_checksum = file_checksum(Path(config.rows)) if world.is_main else ""
        self.examples = Examples(self.rows, config)
        check_negatives(self.examples, config, world.size)
        self.leaked = find_leakage(self.rows, self.dev) if self.dev is not None else None
        if self.leaked:
            log.warning("warning: %s; the dev score will look better than it is", self.leaked.summary())
        self.encoder = load_encoder(config, device)
        world.agree_on_precision(self.encoder)
        world.broadcast(self.encoder.state_dict().values())
        self.optimizer = make_optimizer(self.encoder, config)
        self.scaler = loss_scaler(config.precision, self.encoder.device)
        self.remining = Remining(config, self.rows, self.examples) if config.remine_every else None
        steps_per_epoch = math.ceil(math.ceil(len(self.examples) / config.batch_size) / config.grad_accumulation)
        self.total_steps = config.epochs * steps_per_epoch
        self.eval_every = config.eval_every or steps_per_epoch
        self.checkpoint_every = config.checkpoint_every or steps_per_epoch
        self.folder = folder
        self.checkpoints = Checkpoints(self.folder.checkpoints, config.keep_checkpoints)
        self.state = RunState()

    def open_folder(self) -> None:
        """Begin the run folder, or check that it holds this run."""
        if self.world.is_main:
            self.folder.open(self.config.restart)
        self.world.barrier()

    def begin_or_resume(self) -> None:
        """Load the newest checkpoint; without one, evaluate the encoder as it is before the first step."""
        key = data_key(self.rows, self.remining.data.passages if self.remining else {})
        state = self.checkpoints.resume(self.encoder.transformer, self.optimizer, key, self.world.size)
        if self.world.is_main:
            self.folder.forget_metrics_after(state.step if state else -1)
        if state is not None:
            log.info("resuming after step %d of %d", state.step, self.total_steps)
            self.state = state
            self.scaler.load_state_dict(state.scaler)
            if self.config.precision == "auto" and state.precision is not None:
                self.encoder.autocast = autocast_type(state.precision, self.encoder.device)
                choose_kernel(self.optimizer, self.encoder)
            if self.remining and state.mined_RM is not None:
                self.remining.restore(state.mined_RM)
            self._start -= state.seconds
            return
        scores = self._dev_scores()
        self.state = RunState(
            data_key=key,
            num_processes=self.world.size,
            dev_before=scores.get("dev_ndcg_at_10"),
            precision=self.encoder.precision,
        )
        if self.world.is_main:
            self.folder.log_metrics(step=0, **scores)

    def announce(self) -> None:
        """Log the size of the run and of its steps."""
        config, num_rows, (num_mined, num_generated) = self.config, len(self.examples), self.examples.num_negatives
        rows_per_step = min(config.batch_size * config.grad_accumulation, num_rows)
        own = (num_mined + num_generated) / num_rows
        sharing = {"none": 1, "in-batch": config.batch_size // self.world.size, "cross-device": config.batch_size}
        others = min(sharing[config.loss.in_batch], num_rows) - 1
        log.info(
            "%d rows, %d steps of %d rows: about %.0f texts a step, %.1f negatives a query (%d mined, %d generated)",
            num_rows, self.total_steps, rows_per_step, rows_per_step * (2 + own), own + others * (1 + own),
            num_mined, num_generated,
        )  # fmt: skip

    def batches(self) -> Iterator[list[list[Example]]]:
        """The batches of every step of the run, from its first."""
        for epoch in range(self.config.epochs):
            batches = self.examples.epoch(epoch)
            while step := list(itertools.islice(batches, self.config.grad_accumulation)):
                yield step

    def out_of_patience(self) -> bool:
        """Whether dev was not better for too long; by what a checkpoint holds: a run that died stops there as well."""
        state, patience = self.state, self.config.patience
        stop = patience > 0 and (state.step - state.best_step) // self.eval_every >= patience
        if stop:
            log.info("%d evaluations without a better dev nDCG@10: stopped at step %d", patience, state.step)
        return stop

    def step(self, step: int, batches: Sequence[Sequence[Example]]) -> tuple[StepReport, float]:
        """One update of the weights; returns what was measured and the gradient's norm.

        Raises InputError, with the weights as they were, when the loss or its gradient is not finite.
        """
        config, scaler, optimizer, state = self.config, self.scaler, self.optimizer, self.state
        torch.manual_seed(((config.seed * 1_000_003 + step) << 10) + self.world.rank)
        self.encoder.train()
        optimizer.zero_grad(set_to_none=True)
        report = accumulate_gradients(self.encoder, batches, config, self.world, scaler.scale)
        scaler.unscale_(optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), config.clip or math.inf))
        # Scaled gradients may overflow: the scaler skips such a step and lowers its factor, at last below 1.
        overflow = scaler.is_enabled() and scaler.get_scale() >= 1 and not math.isfinite(norm)
        if not (math.isfinite(report.loss) and (math.isfinite(norm) or overflow)):
            raise InputError(
                f"step {step}: the loss is {report.loss}, its gradient's norm {norm}; stopped before this step "
                f"changed the weights (lower --lr, now {config.lr}, or raise --temperature)"
            )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, self.total_steps, config)
        scaler.step(optimizer)
        scaler.update()
        state.step, state.last_loss, state.scaler = step, report.loss, scaler.state_dict()
        state.first_loss = report.loss if step == 1 else state.first_loss
        state.num_skipped += overflow
        state.num_truncated += report.num_truncated
        return report, norm

    def measure_and_save(self, report: StepReport, norm: float, seconds: float) -> None:
        """What may follow a step: evaluation, mining anew, a line of metrics, the best weights, a checkpoint."""
        config, state, world = self.config, self.state, self.world
        step, done = state.step, state.step == self.total_steps
        scores = self._dev_scores() if step % self.eval_every == 0 or done else {}
        mined: dict[str, int] = {}
        if self.remining:
            if step % config.remine_every == 0 and not done:
                mined = self.remining.mine(self.encoder, world)
            state.mined_RM = self.remining.mined_RM
        state.seconds = time.monotonic() - self._start
        if world.is_main:
            scale = {"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}
            measured = asdict(report) | scores | mined | scale
            lr = self.optimizer.param_groups[0]["lr"]
            self.folder.log_metrics(step=step, lr=lr, grad_norm=norm, seconds=round(seconds, 3), **measured)
        score = scores.get("dev_ndcg_at_10")
        if score is not None and score > state.best_score:
            state.best_score, state.best_step = score, step
            if world.is_main:
                self.checkpoints.save_best(step, self.encoder.transformer)
        if world.is_main and step % self.checkpoint_every == 0 and not done:
            self.checkpoints.save(state, self.encoder.transformer, self.optimizer)

    def finish(self) -> TrainResult:
        """Save the best encoder with its card, close the run folder and return the result."""
        state, leaked = self.state, self.leaked
        if self.dev is None:
            state.best_step = state.step
        elif state.best_step != state.step and self.world.is_main:
            self.checkpoints.load_best(state.best_step, self.encoder.transformer)
        if state.dev_before is not None and state.best_score <= state.dev_before:
            before, best = state.dev_before, state.best_score
            log.warning("warning: training did not raise dev nDCG@10 (%.4f before, %.4f at best)", before, best)
        result = TrainResult(
            model=str(self.folder.model),
            steps=state.step,
            best_step=state.best_step,
            dev_before=state.dev_before,
            dev_after=state.best_score if self.dev is not None else None,
            first_loss=state.first_loss,
            last_loss=state.last_loss,
            num_rows=len(self.examples),
            num_truncated=state.num_truncated,
            num_skipped=state.num_skipped,
            leaked_queries=len(leaked.queries) if leaked else 0,
            leaked_passages=len(leaked.relevant_passages) if leaked else 0,
            seconds=round(state.seconds, 2),
            precision=self.encoder.precision,
            rows_checksum=self.rows_checksum,
        )
        if self.world.is_main:
            self.encoder.save(self.folder.model)
            write_model_card(self.folder.model, self.config, result, self.rows)
            self.folder.finish(asdict(result))
        self.world.barrier()
        return result

    def _dev_scores(self) -> dict[str, float]:
        return dev_scores(self.encoder, self.dev, self.config.matryoshka, self.world)


def _note(report: StepReport, seconds: float) -> str:
    view = "" if math.isnan(report.entropy_ratio) else (
        f", H/log|G| {report.entropy_ratio:.2f}, mass {report.generated_mass:.2f} (expected {report.expected_mass:.2f})"
    )  # fmt: skip
    speed = f"{report.num_rows / seconds:.1f} rows/s, {report.num_tokens / seconds:.0f} tokens/s"
    return f"loss {report.loss:.3f}{view}, {speed}"
