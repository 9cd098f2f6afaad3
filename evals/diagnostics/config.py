"""The options of diagnostics."""

from pathlib import Path
from typing import Annotated

from data.base.errors import InputError, require
from data.base.options import Natural, Positive, Seed, at_least, options
from data.base.outputs import ForceOption
from trainer.encoder.options import EncoderOptions


@options
class DiagnoseConfig(EncoderOptions, ForceOption):
    """Look for source leak, gradient drift, hardness and yield in rows with generated negatives."""

    run: Path | None = None
    """Folder of `synthesize` or `demo`, for yield, calibration and refused candidates (None: without them)."""

    rows: Path | None = None
    """Training rows with mined and generated negatives (None: the rows.jsonl that the run wrote)."""

    model: str | None = None  # type: ignore[assignment]
    """Encoder to look with: model folder, hub name or bundled:all-MiniLM-L6-v2 (None: what the run trained)."""

    baseline: str | None = None
    """Encoder before training, shown beside the model (None: what the run started from, else no comparison)."""

    out: Path | None = None
    """Folder for diagnostics.json, scores.jsonl and audit labels (None: RUN/diagnostics, where `report` looks)."""

    audit: Natural = 0
    """Passages to label by hand on this terminal, six in ten of them accepted negatives (0: none)."""

    temperature: Positive = 0.05
    """InfoNCE temperature of the weights and gradients, in units of similarity."""

    grade_sharpness: Positive | None = None
    """Gradients are those of graded relevance at this sharpness (None: as the run was trained, else plain)."""

    max_rows: Natural = 1000
    """Look at no more than this many rows, a seeded sample of those with generated negatives first (0: all)."""

    parameter_rows: Natural = 8
    """Rows on which the drift of the whole model's gradient is measured; by far the slowest part (0: leave it out)."""

    permutations: Annotated[int, at_least(19)] = 200
    """Shuffles behind the chance level of the mutual information; fewer than 19 allow no p below 0.05."""

    seed: Seed = 0
    """Seed of samples, folds and shuffles."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""

    def __post_init__(self) -> None:
        require(self.parameter_rows != 1, "parameter-rows", "0 or at least 2, as halves are compared", 1)
        if self.run is None:
            for name in ("rows", "out"):
                if getattr(self, name) is None:
                    raise InputError(f"--{name}: expected it, or a run folder (--run)")
            if not self.model and not self.audit:
                raise InputError("--model: expected an encoder (it may be left out only with --audit N)")
        if self.baseline and not self.model and self.run is None:
            raise InputError("--baseline: expected --model with it, the encoder to compare with")
