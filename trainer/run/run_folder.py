"""The folder of a run: what it was asked to do, what it measured, and whether a new command may go on with it."""

import importlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.base.errors import InputError
from data.base.files import atomic_writer, read_json_object, write_json
from data.base.outputs import claim_folder
from trainer.config import Tracking, TrainConfig

# Settings that may differ between a run and its resumption.
FREE = frozenset({"out", "device", "restart", "keep_checkpoints", "tracking"})
_WRITTEN = ("config.json", "metrics.jsonl", "summary.json", "checkpoints", "model", "remining", "tensorboard")


class RunFolder:
    """OUT with config.json, metrics.jsonl, checkpoints/, model/ and, once the run is finished, summary.json."""

    def __init__(self, config: TrainConfig):
        self.path = Path(config.out)
        self.model, self.checkpoints = self.path / "model", self.path / "checkpoints"
        self._summary, self._config, self._metrics = (
            self.path / name for name in ("summary.json", "config.json", "metrics.jsonl")
        )
        # As JSON gives them back: lists for tuples.
        self._settings = json.loads(json.dumps(asdict(config)))
        self._tracking = config.tracking
        self._tracker = Tracker()

    def open(self, restart: bool) -> None:
        """Begin, or check that what is there may be gone on with; only the main process calls this.

        Raises InputError when the folder holds a run with other settings, or something that is no run, and when the
        tracker is not installed.
        """
        self._claim(restart)
        if not self.is_finished():
            # Not before: a tracker may write into the folder, and tells others that a run has begun.
            self._tracker = make_tracker(self._tracking, self.path, self._settings)

    def _claim(self, restart: bool) -> None:
        inputs = [self._settings[name] for name in ("rows", "dev", "model", "remine_like")]
        claim_folder("train", self.path, _WRITTEN, inputs=inputs, alone=True, restart=restart)
        if not self._config.exists():
            write_json(self._config, self._settings)
            return
        before = read_json_object(self._config)
        differing = [
            f"--{name.replace('_', '-')} was {before.get(name)}, now {value}"
            for name, value in self._settings.items()
            if name not in FREE and before.get(name) != value
        ]
        if differing:
            raise InputError(
                f"holds a run with other settings ({'; '.join(differing)}): choose another --out, or --restart",
                file=self.path,
            )

    def is_finished(self) -> bool:
        """Whether `finish` has written its summary."""
        return self._summary.exists()

    def summary(self) -> dict[str, Any]:
        """What `finish` wrote."""
        return read_json_object(self._summary)

    def log_metrics(self, **values: Any) -> None:
        """Append one line to metrics.jsonl; what is None or not finite, which JSON does not have, is left out."""
        kept = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept) + "\n")
        self._tracker.log(kept.pop("step"), kept)

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that will be run again, and a half-written last line."""
        if not self._metrics.exists():
            return
        lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        with atomic_writer(self._metrics) as file:
            for line in lines:
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    file.write(line)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished; the best weights are in model/ now."""
        write_json(self._summary, summary)
        self._tracker.close()
        for file in self.checkpoints.glob("best-*.safetensors"):
            file.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run came to; saved as summary.json. `dev_*` is nDCG@10 on dev, None without dev data.

    `rows_checksum` is that of the file of rows when the run read it.
    """

    model: str
    steps: int
    best_step: int
    dev_before: float | None
    dev_after: float | None
    first_loss: float
    last_loss: float
    num_rows: int
    num_truncated: int
    num_skipped: int = 0
    leaked_queries: int
    leaked_passages: int
    seconds: float
    precision: str = "float32"
    rows_checksum: str = ""

    @property
    def model_folder(self) -> Path:
        """The trained encoder, a sentence-transformers folder."""
        return Path(self.model)


class Tracker:
    """Takes the numbers of one step, and does nothing with them.

    `step` rises; a resumed run repeats steps that were not checkpointed.
    """

    def log(self, step: int, values: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard(Tracker):
    def __init__(self, module: Any, folder: Path):
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Project(Tracker):
    """W&B, and trackio, which has the same calls."""

    def __init__(self, module: Any, folder: Path, settings: dict[str, Any]):
        self._module = module
        module.init(project="causalneg", name=folder.name, config=settings)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._module.log(values, step=step)

    def close(self) -> None:
        self._module.finish()


def make_tracker(kind: Tracking, folder: Path, settings: dict[str, Any]) -> Tracker:
    """The tracker of that name. Raises InputError when its package is not installed; keys come from its environment."""
    if kind == "none":
        return Tracker()
    name = "torch.utils.tensorboard" if kind == "tensorboard" else kind
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"--tracking {kind}: is not installed (pip install {kind})") from error
    return _TensorBoard(module, folder) if kind == "tensorboard" else _Project(module, folder, settings)
