"""The options of a training run: the command line, the saved config.json and the test fixture in one."""

from dataclasses import dataclass
from typing import Annotated, Literal

from data.base.errors import require
from data.base.options import Bound, Count, Natural, NotNegative, Positive, Seed, Share, options
from trainer.encoder.options import EncoderOptions

Tracking = Literal["none", "tensorboard", "wandb", "trackio"]

InBatch = Literal["none", "in-batch", "cross-device"]

Relevance = Literal["plain", "graded"]

Probability = Annotated[float, Bound("a probability from 0 to below 1", lambda value: 0 <= value < 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The numbers of the loss, whatever of them was given or followed from another setting; see TrainConfig."""

    temperature: float
    in_batch: InBatch
    graded: bool
    grade_sharpness: float
    mask_above: float | None
    generated_weight: float
    entropy_weight: float
    entropy_temperature: float


@options
class Recipe:
    """How an encoder is trained, wherever one is: one default recipe for `train`, `ablate` and the demo, see
    docs/recipe.md."""

    epochs: Count = 3
    """Passes over the rows."""

    batch_size: Count = 16
    """Rows per batch; with in-batch negatives these rows see each other's passages."""

    lr: Positive = 6e-5
    """Peak learning rate of AdamW, for an encoder of MiniLM's size; larger ones want less, 2e-5 or 1e-5."""

    temperature: Positive = 0.05
    """InfoNCE temperature, in units of similarity."""

    in_batch: InBatch | None = None
    """Further negatives: none (the paper's), other rows' passages on this process (in-batch) or all (cross-device).
    None: in-batch, and none with the paper's preset."""

    dropout: Probability | None = 0.0
    """Dropout probability of every layer while training (None: the model's own)."""

    max_tokens_per_step: Count = 16_384
    """Most tokens in memory at once (at least a row's): larger batches are cut into parts, and encoded twice with
    in-batch negatives; gradients stay the same."""


@options
class OptimiserOptions:
    """How the weights move."""

    grad_accumulation: Count = 1
    """Batches per optimiser step."""

    warmup_ratio: Share = 0.1
    """Share of all steps over which the learning rate rises from 0; it then falls linearly to 0."""

    weight_decay: NotNegative = 0.01
    """AdamW weight decay, on matrices only (not on biases and norms)."""

    clip: NotNegative = 1.0
    """Largest gradient norm (0: no clipping)."""

    lora_rank: Natural = 0
    """Train low-rank updates of this rank instead of all weights; merged when saved (0: all weights; extra `lora`)."""

    seed: Seed = 0
    """Seed of row order, negative samples, choice of positive and dropout: 0 to 4294967295."""


@options
class LossOptions:
    """What is learned from a row."""

    preset: Literal["none", "paper"] = "none"
    """paper: generated_weight, entropy_weight and in_batch are the paper's (1, 0.05 and none) where they are not given;
    so are relevance and the temperatures anyway."""

    relevance: Relevance = "plain"
    """What InfoNCE takes a generated negative for: plain, irrelevant like any other (the paper's); graded, as relevant
    as the share of the requirements that it keeps by its verdict."""

    grade_sharpness: Positive = 8.0
    """How far graded relevance prefers the higher grade: the softmax is to give a passage of grade g a share in
    proportion to exp(grade_sharpness * g), nothing at grade 0. The larger, the nearer to plain."""

    grade_mined: bool = False
    """Whether graded relevance believes the verdicts of mined negatives too, not those of generated ones alone."""

    mask_above: NotNegative | None = None
    """Mined and in-batch negatives that score above the positive by more than this, in units of similarity, are left
    out of a step's InfoNCE as likely relevant (None: none are)."""

    generated_weight: Positive | None = None
    """What a generated negative counts for in InfoNCE's softmax, where a mined one counts for 1 (1: the paper's
    setting; None: 0.1, and 1 with relevance graded). Found on the demo's dev queries, see docs/recipe.md."""

    entropy_weight: NotNegative | None = None
    """Weight of the query-view entropy loss (0: off, the loss is InfoNCE alone; None: 0.05, and 0 with relevance
    graded)."""

    entropy_temperature: Positive = 0.1
    """Temperature of the query's view of its negatives, in units of similarity."""

    matryoshka: tuple[Count, ...] = ()
    """Widths, besides the full one, at which the first so many numbers of an embedding are trained to work alone."""


@options
class NegativeOptions:
    """Which negatives of a row are seen."""

    max_mined: Natural = 15
    """Mined negatives per row and epoch; where a row has more, a seeded sample (0: none)."""

    max_generated: Natural = 4
    """Generated negatives per row and epoch; where a row has more, a seeded sample (0: none)."""

    remine_every: Natural = 0
    """Steps after which mined negatives are found anew with the weights of that moment (0: never)."""

    remine_like: str | None = None
    """Report that `mine` wrote (OUT.report.json): its data, split and rules hold for mining anew."""


@options
class MemoryOptions:
    """Memory against time; see max_tokens_per_step and precision, too."""

    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again going backward: less memory, about a third more time."""


@options
class CheckpointOptions:
    """What is saved and measured on the way, and when training ends."""

    eval_every: Natural = 0
    """Steps between evaluations on dev (0: at the end of each epoch)."""

    checkpoint_every: Natural = 0
    """Steps between checkpoints, from which a stopped run goes on to the same weights (0: at the end of each epoch)."""

    keep_checkpoints: Count = 2
    """Newest checkpoints kept; each holds the weights and twice their size for the optimiser."""

    patience: Natural = 0
    """Evaluations without a better dev nDCG@10 after which training stops (0: never)."""

    tracking: Tracking = "none"
    """Where metrics go besides metrics.jsonl: tensorboard, wandb or trackio, each to be installed by you."""

    restart: bool = False
    """Throw away what an earlier run left in `out`; without it the same command resumes that run."""


@options
class TrainConfig(
    Recipe, OptimiserOptions, LossOptions, NegativeOptions, MemoryOptions, CheckpointOptions, EncoderOptions
):
    """Train an encoder on rows of (query, positives, mined and generated negatives)."""

    rows: str
    """Training rows: a canonical .jsonl file, as `mine` and `synthesize` write it."""

    out: str
    """Folder of the run: config.json, metrics.jsonl, checkpoints/, model/, summary.json."""

    dev: str | None = None
    """Retrieval data to stop on: BEIR folder, pairs .jsonl, data set folder or hub:ORG/NAME (None: no evaluation)."""

    dev_split: str = "dev"
    """Split of the dev data."""

    skip_bad_rows: bool = False
    """Count and skip bad rows, and bad lines of the dev data, instead of stopping at the first."""

    def __post_init__(self) -> None:
        together = not self.remine_every or self.remine_like is not None
        require(together, "remine-every", "--remine-like with it", self.remine_every)
        together = self.remine_like is None or self.remine_every > 0
        require(together, "remine-like", "--remine-every with it", self.remine_like)
        for name in ("grade_sharpness", "grade_mined"):
            value = getattr(self, name)
            used = self.relevance == "graded" or value == getattr(LossOptions, name)
            require(used, name, "--relevance graded with it", value)
        require(not self.patience or self.dev is not None, "patience", "--dev to be given with it", self.patience)

    @property
    def loss(self) -> LossSettings:
        """The loss's settings, with what was left open filled in."""
        graded, paper = self.relevance == "graded", self.preset == "paper"
        weight = 1.0 if graded or paper else 0.1
        entropy = 0.0 if graded and not paper else 0.05
        return LossSettings(
            temperature=self.temperature,
            in_batch=self.in_batch or ("none" if paper else "in-batch"),
            graded=graded,
            grade_sharpness=self.grade_sharpness,
            mask_above=self.mask_above,
            generated_weight=weight if self.generated_weight is None else self.generated_weight,
            entropy_weight=entropy if self.entropy_weight is None else self.entropy_weight,
            entropy_temperature=self.entropy_temperature,
        )
