"""The options of an ablation."""

from pathlib import Path
from typing import Annotated

from data.base.errors import require
from data.base.options import Natural, Positive, at_least, options
from trainer.config import Recipe
from trainer.encoder.options import EncoderOptions


@options
class AblateConfig(Recipe, EncoderOptions):
    """Compare kinds of negatives: same steps, same number of texts a row, several seeds, paired tests."""

    rows: Path
    """Rows with mined and generated negatives (rows.jsonl of `just synthesize`). Mine at least `num_mined` plus as many
    as a row has generated ones, so that the mined-only arm has equal texts. bundled:demo or bundled:xquad-sentences:
    mined with `model`, and negatives as a capable language model once wrote them."""

    test: str
    """Judged queries that the table is about."""

    out: Path
    """Folder of the ablation; the same command goes on where it ended."""

    naive_rows: Path | None = None
    """The same rows with naively written negatives, or a bundled corpus again (None: the arms with them are left out,
    and the table says so)."""

    dev: str | None = None
    """Judged queries on which each run's best epoch is chosen: whatever `eval` reads as data. The last step's weights,
    where the arms have equal steps, get a table beside it (None: the last step alone; with few dev queries the choice
    adds more noise than it is worth)."""

    dev_split: str = "dev"
    """Split of the dev data."""

    test_split: str = "test"
    """Split of the test data."""

    slices: tuple[Path, ...] = ()
    """Files with ids of test queries, one a line, separated by commas: each gets a table of its own, under the name of
    the file ("" for none)."""

    transfer: tuple[str, ...] = ()
    """Further judged queries, `test_split` of them, separated by commas, that every trained encoder is scored on: what
    is lost or gained on corpora that training never saw ("" for none)."""

    seeds: Annotated[int, at_least(2)] = 5
    """Training seeds an arm (at least 2, as one has no spread)."""

    num_mined: Natural = 4
    """Mined negatives a row next to the generated ones; the mined-only arm gets as many texts in all."""

    entropy_weights: tuple[Positive, ...] = (0.05,)
    """Weights of the query-view entropy term, one arm each, separated by commas ("" for no such arm)."""

    generated_weights: tuple[Positive, ...] = (0.1,)
    """What a generated negative counts for in InfoNCE (--generated-weight of `train`), one arm each, separated by
    commas ("" for no such arm)."""

    grade_sharpness: tuple[Positive, ...] = (8.0,)
    """Sharpness of graded relevance (--grade-sharpness of `train`), one arm each with the generated negatives and one
    with the naive ones, separated by commas ("" for none). Rows without verdicts leave these arms out."""

    controls: bool = False
    """Train what a difference may come from instead, too: graded relevance with the entropy term; mined negatives alone
    with labels smoothed as much; false mined negatives made positives; generated negatives out of their own row's
    softmax."""

    keep_models: bool = False
    """Keep every trained model (about 90 MB each for the bundled one)."""

    def __post_init__(self) -> None:
        names = {file.stem for file in self.slices}
        given = ", ".join(map(str, self.slices))
        require(len(names) == len(self.slices), "slices", "files of different names", given)


@options
class DemoRealConfig(AblateConfig):
    """Kinds of negatives compared on real questions, with a capable model's recorded answers: no key, no network."""

    rows: Path = Path("bundled:xquad-sentences")
    """Rows with mined and generated negatives."""

    test: str = "bundled:xquad-sentences"
    """Judged queries that the table is about."""

    out: Path = Path("runs/demo-real")
    """Folder of the ablation; the same command goes on where it ended."""

    naive_rows: Path | None = Path("bundled:xquad-sentences")
    """The same rows with naively written negatives."""

    dev: str | None = "bundled:xquad-sentences"
    """Judged queries on which each run's best epoch is chosen."""
