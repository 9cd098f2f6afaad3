"""The configuration of a training run: the command line, the saved config.json and the test fixture in one."""

import math
from dataclasses import dataclass
from typing import Literal

from data.base.errors import require
from trainer.encoder.model_files import BUNDLED_MODEL

Precision = Literal["float32", "bfloat16", "float16"]

Tracking = Literal["none", "tensorboard", "wandb", "trackio"]

InBatch = Literal["none", "in-batch", "cross-device"]

Relevance = Literal["plain", "graded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The numbers of the loss, whatever of them was given or followed from another setting; see TrainConfig."""

    temperature: float
    graded: bool
    grade_sharpness: float
    mask_above: float | None
    generated_weight: float
    max_generated_share: float | None
    entropy_weight: float
    entropy_temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Train an encoder on rows of (query, positives, mined and generated negatives)."""

    rows: str
    """Training rows: a canonical .jsonl file, as `mine` and `synthesize` write it."""

    out: str
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, model/, summary.json."""

    model: str = BUNDLED_MODEL
    """Encoder to start from: bundled:all-MiniLM-L6-v2, a local folder, or a hub name (org/name)."""

    revision: str | None = None
    """Revision of a hub model (None: its main branch)."""

    dev: str | None = None
    """Retrieval data to stop on: BEIR folder, pairs .jsonl, data set folder or hub:ORG/NAME (None: no evaluation)."""

    dev_split: str = "dev"
    """Split of the dev data."""

    epochs: int = 1
    """Passes over the rows."""

    batch_size: int = 16
    """Rows per batch; with in-batch negatives these rows see each other's passages."""

    grad_accumulation: int = 1
    """Batches per optimiser step."""

    lr: float = 2e-5
    """Peak learning rate of AdamW."""

    warmup_ratio: float = 0.1
    """Share of all steps over which the learning rate rises from 0; it then falls linearly to 0."""

    weight_decay: float = 0.01
    """AdamW weight decay, on matrices only (not on biases and norms)."""

    clip: float = 1.0
    """Largest gradient norm (0: no clipping)."""

    temperature: float = 0.05
    """InfoNCE temperature, in units of similarity."""

    in_batch: InBatch = "none"
    """Further negatives: none (the paper's), other rows' passages on this process (in-batch) or all (cross-device)."""

    preset: Literal["none", "paper"] = "none"
    """paper: generated_weight and entropy_weight are the paper's (1 and 0.05) where they are not given; so are
    relevance, in_batch and the temperatures anyway."""

    relevance: Relevance = "plain"
    """What InfoNCE takes a generated negative for: plain, irrelevant like any other (the paper's); graded, as relevant
    as the share of the requirements that it keeps by its verdict."""

    grade_sharpness: float = 4.0
    """How far graded relevance prefers the higher grade: the softmax is to give a passage of grade g a share in
    proportion to exp(grade_sharpness * g), nothing at grade 0. The larger, the nearer to plain."""

    grade_mined: bool = False
    """Whether graded relevance believes the verdicts of mined negatives too, not those of generated ones alone."""

    mask_above: float | None = None
    """Mined and in-batch negatives that score above the positive by more than this, in units of similarity, are left
    out of a step's InfoNCE as likely relevant (None: none are)."""

    generated_weight: float | None = None
    """What a generated negative counts for in InfoNCE's softmax, where a mined one counts for 1 (1: the paper's
    setting; None: 0.1, and 1 with relevance graded). Found on the demo's dev queries, see docs/recipe.md."""

    max_generated_share: float | None = None
    """Largest share of the softmax over a row's negatives that generated ones may take (None: no cap, as the paper)."""

    entropy_weight: float | None = None
    """Weight of the query-view entropy loss (0: off, the loss is InfoNCE alone; None: 0.05, and 0 with relevance
    graded)."""

    entropy_temperature: float = 0.1
    """Temperature of the query's view of its negatives, in units of similarity."""

    dropout: float | None = None
    """Dropout probability of every layer while training (None: the model's own)."""

    max_length: int | None = None
    """Longest text in tokens, special tokens included (None: the model's own)."""

    dimensions: int | None = None
    """Numbers that an embedding is cut to, as sentence-transformers' truncate_dim does (None: the model's own)."""

    query_prompt: str | None = None
    """Instruction in front of every query (None: the model's own, which may be none)."""

    document_prompt: str | None = None
    """Instruction in front of every passage (None: the model's own, which may be none)."""

    max_mined: int = 15
    """Mined negatives per row and epoch; where a row has more, a seeded sample (0: none)."""

    max_generated: int = 3
    """Generated negatives per row and epoch; where a row has more, a seeded sample (0: none)."""

    remine_every: int = 0
    """Steps after which mined negatives are found anew with the weights of that moment (0: never)."""

    remine_like: str | None = None
    """Report that `mine` wrote (OUT.report.json): its data, split and rules hold for mining anew."""

    max_tokens_per_step: int = 4096
    """Most tokens in memory at once (at least a row's): batches are cut into parts; gradients stay the same."""

    eval_every: int = 0
    """Steps between evaluations on dev (0: at the end of each epoch)."""

    checkpoint_every: int = 0
    """Steps between checkpoints, from which a stopped run goes on to the same weights (0: at the end of each epoch)."""

    keep_checkpoints: int = 2
    """Newest checkpoints kept; each holds the weights and twice their size for the optimiser."""

    patience: int = 0
    """Evaluations without a better dev nDCG@10 after which training stops (0: never)."""

    precision: Precision = "float32"
    """Precision of the encoder's matrix products; weights and losses stay float32. float16 needs a GPU."""

    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again going backward: less memory, about a third more time."""

    lora_rank: int = 0
    """Train low-rank updates of this rank instead of all weights; merged when saved (0: all weights; extra `lora`)."""

    matryoshka: tuple[int, ...] = ()
    """Widths, besides the full one, at which the first so many numbers of an embedding are trained to work alone."""

    tracking: Tracking = "none"
    """Where metrics go besides metrics.jsonl: tensorboard, wandb or trackio, each to be installed by you."""

    seed: int = 0
    """Seed of row order, negative samples, choice of positive and dropout: 0 to 4294967295."""

    device: str | None = None
    """Device, like cpu or cuda:0 (None: a GPU if there is one)."""

    restart: bool = False
    """Throw away what an earlier run left in `out`; without it the same command resumes that run."""

    skip_bad_rows: bool = False
    """Count and skip bad rows, and bad lines of the dev data, instead of stopping at the first."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "grad_accumulation", "max_tokens_per_step", "keep_checkpoints"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_mined", "max_generated", "eval_every", "checkpoint_every", "patience"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("lora_rank", "remine_every"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        for name in ("lr", "temperature", "entropy_temperature", "generated_weight", "grade_sharpness"):
            value = getattr(self, name)
            self._check(name, value is None or (math.isfinite(value) and value > 0), "a number above 0")
        for name in ("weight_decay", "clip", "entropy_weight", "mask_above"):
            value = getattr(self, name)
            self._check(name, value is None or (math.isfinite(value) and value >= 0), "a number of at least 0")
        self._check("warmup_ratio", 0 <= self.warmup_ratio <= 1, "a share from 0 to 1")
        self._check("dimensions", self.dimensions is None or self.dimensions >= 1, "at least 1")
        self._check("matryoshka", all(width >= 1 for width in self.matryoshka), "widths of at least 1")
        share = self.max_generated_share
        self._check("max_generated_share", share is None or 0 < share < 1, "a share above 0 and below 1")
        self._check("dropout", self.dropout is None or 0 <= self.dropout < 1, "a probability from 0 to below 1")
        self._check("remine_every", not self.remine_every or self.remine_like is not None, "--remine-like with it")
        self._check("seed", 0 <= self.seed < 2**32, "0 to 4294967295")
        self._check("patience", not self.patience or self.dev is not None, "--dev to be given with it")

    @property
    def loss(self) -> LossSettings:
        """The loss's settings, with what was left open filled in."""
        graded, paper = self.relevance == "graded", self.preset == "paper"
        weight = 1.0 if graded or paper else 0.1
        entropy = 0.0 if graded and not paper else 0.05
        return LossSettings(
            temperature=self.temperature,
            graded=graded,
            grade_sharpness=self.grade_sharpness,
            mask_above=self.mask_above,
            generated_weight=weight if self.generated_weight is None else self.generated_weight,
            max_generated_share=self.max_generated_share,
            entropy_weight=entropy if self.entropy_weight is None else self.entropy_weight,
            entropy_temperature=self.entropy_temperature,
        )

    def _check(self, name: str, right: bool, expected: str) -> None:
        require(right, name, expected, getattr(self, name))
