"""The options of `python -m programs profile`: command line and test fixture in one."""

from pathlib import Path
from typing import Annotated

from data.base.options import Bound, Count, options
from programs.options import LMOptions, ModelName

TomlFile = Annotated[Path, Bound("a file whose name ends in .toml", lambda path: path.suffix == ".toml")]


@options
class ProfileConfig(LMOptions):
    """Draft a corpus profile (what counts as relevant, how passages read) from a sample, for a person to edit."""

    refused = (("send", "a profile takes no batches: it is one call"),)

    data: str
    """The corpus with some judged queries: BEIR folder, pairs (.jsonl, .parquet), data set folder or hub:ORG/NAME."""

    lm: ModelName

    split: str = "train"
    """Split of the data."""

    out: TomlFile = Path("profile.toml")
    """File to write: give it to `synthesize` as profile=FILE."""

    overwrite: bool = False
    """Write over a file that is there."""

    sample: Count = 12
    """So many pairs and as many passages are shown to the model, each cut at 800 characters."""
