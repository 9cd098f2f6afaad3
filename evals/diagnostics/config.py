"""Config."""

from dataclasses import dataclass
from pathlib import Path

from data.base.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseConfig:
    """Look for source leak, gradient drift, hardness and yield in rows with generated negatives."""

    run: Path | None = None
    """Folder of `synthesize` or `demo`, for yield, calibration and refused candidates (None: without them)."""

    rows: Path | None = None
    """Training rows with mined and generated negatives (None: the rows.jsonl that the run wrote)."""

    model: str | None = None
    """Encoder to look with: model folder, hub name or bundled:all-MiniLM-L6-v2 (None: what the run trained)."""

    baseline: str | None = None
    """Encoder before training, shown beside the model (None: what the run started from, else no comparison)."""

    out: Path | None = None
    """Folder for diagnostics.json, scores.jsonl and audit labels (None: RUN/diagnostics, where `report` looks)."""

    audit: int = 0
    """Passages to label by hand on this terminal, six in ten of them accepted negatives (0: none)."""

    temperature: float = 0.05
    """InfoNCE temperature of the weights and gradients, in units of similarity."""

    max_rows: int = 1000
    """Look at no more than this many rows, a seeded sample of those with generated negatives first (0: all)."""

    parameter_rows: int = 8
    """Rows on which the drift of the whole model's gradient is measured; by far the slowest part (0: leave it out)."""

    permutations: int = 200
    """Shuffles behind the chance level of the mutual information."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    seed: int = 0
    """Seed of samples, folds and shuffles."""

    skip_bad_rows: bool = False
    """Count and report bad rows instead of stopping at the first one."""

    def __post_init__(self) -> None:
        for name in ("audit", "max_rows", "parameter_rows"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name.replace('_', '-')}: expected 0 or more, got {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"--temperature: expected a number above 0, got {self.temperature}")
        if self.permutations < 19:
            raise InputError(f"--permutations: expected at least 19 (for p < 0.05), got {self.permutations}")
        if self.run is None:
            for name in ("rows", "out"):
                if getattr(self, name) is None:
                    raise InputError(f"--{name}: expected it, or a run folder (--run)")
            if not self.model and not self.audit:
                raise InputError("--model: expected an encoder (it may be left out only with --audit N)")
        if self.baseline and not self.model and self.run is None:
            raise InputError("--baseline: expected --model with it, the encoder to compare with")
