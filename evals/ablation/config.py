"""Config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.base.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class AblateConfig:
    """Compare kinds of negatives: same steps, same number of texts a row, several seeds, paired tests."""

    rows: Path
    """Rows with mined and generated negatives (rows.jsonl of `just synthesize`). Mine at least `num_mined` plus as many
    as a row has generated ones, so that the mined-only arm has equal texts."""

    test: str
    """Judged queries that the table is about."""

    out: Path
    """Folder of the ablation; the same command goes on where it ended."""

    naive_rows: Path | None = None
    """The same rows with naively written negatives (None: that arm is left out, and the table says so)."""

    dev: str | None = None
    """Judged queries on which each run's best epoch is chosen: whatever `eval` reads as data (None: the last step's
    weights, so that the arms have equal steps; with few dev queries the choice adds more noise than it is worth)."""

    dev_split: str = "dev"
    """Split of the dev data."""

    test_split: str = "test"
    """Split of the test data."""

    model: str = "bundled:all-MiniLM-L6-v2"
    """Encoder that every arm starts from."""

    seeds: int = 5
    """Training seeds an arm (at least 2)."""

    num_mined: int = 4
    """Mined negatives a row next to the generated ones; the mined-only arm gets as many texts in all."""

    entropy_weights: str = "0.05"
    """Weights of the query-view entropy term, one arm each, separated by commas ("" for no such arm)."""

    shares: str = ""
    """Caps on the share of the softmax that generated negatives may take (--max-generated-share of `train`), one arm
    each, separated by commas ("" for no such arm)."""

    generated_weights: str = "0.1"
    """What a generated negative counts for in InfoNCE (--generated-weight of `train`), one arm each, separated by
    commas ("" for no such arm)."""

    epochs: int = 3
    """Passes over the rows."""

    batch_size: int = 16
    """Rows a step."""

    lr: float = 2e-5
    """Peak learning rate."""

    temperature: float = 0.05
    """InfoNCE temperature, in units of similarity."""

    in_batch: Literal["none", "in-batch"] = "in-batch"
    """Negatives beyond the row's own: none, or all passages of the batch."""

    dropout: float | None = 0.0
    """Dropout probability while training (None: the model's own)."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    max_tokens_per_step: int = 16_384
    """Tokens in memory at once while training; a batch beyond it takes a second forward pass, with the same result."""

    keep_models: bool = False
    """Keep every trained model (about 90 MB each for the bundled one)."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise InputError(f"--seeds: expected at least 2, since one seed has no spread, got {self.seeds}")
        if self.num_mined < 0:
            raise InputError(f"--num-mined: expected at least 0, got {self.num_mined}")
        if any(not weight > 0 for weight in self.entropy_weight_list):
            raise InputError(f"--entropy-weights: expected numbers above 0, got {self.entropy_weights!r}")
        if any(not 0 < share < 1 for share in self.share_list):
            raise InputError(f"--shares: expected shares above 0 and below 1, got {self.shares!r}")
        if any(not weight > 0 for weight in self.weight_list):
            raise InputError(f"--generated-weights: expected numbers above 0, got {self.generated_weights!r}")

    @property
    def entropy_weight_list(self) -> tuple[float, ...]:
        """The weights as numbers. Raises InputError."""
        return _numbers(self.entropy_weights, "--entropy-weights")

    @property
    def share_list(self) -> tuple[float, ...]:
        """The shares as numbers. Raises InputError."""
        return _numbers(self.shares, "--shares")

    @property
    def weight_list(self) -> tuple[float, ...]:
        """The weights of generated negatives as numbers. Raises InputError."""
        return _numbers(self.generated_weights, "--generated-weights")


def _numbers(words: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words.split(",") if word.strip())
    except ValueError as error:
        raise InputError(f"{flag}: expected numbers separated by commas, got {words!r}") from error
