"""The options of a pipeline."""

from pathlib import Path
from typing import Annotated

from data.base.arguments import Split
from data.base.options import options


@options
class PipelineConfig:
    """Run the steps that a file has a table for, in this order: queries, mine, synthesize, verify, train, diagnose,
    eval, report. A step that is done with the same settings and inputs is skipped."""

    config: Path
    """TOML file with a table for each step ([mine], [train], ...), whose keys are the options of that command. Keys at
    its top are for every step that has them. Paths from step to step need not be given."""

    out: Path | None = None
    """Folder of all steps (None: `out` at the top of the file, else runs/pipeline)."""

    data: str | None = None
    """Data of the steps that read some, instead of what the file says."""

    dev: str | None = None
    """The same for dev data."""

    model: str | None = None
    """The same for the encoder that mines and is trained."""

    lm: str | None = None
    """The same for the language model."""

    step_options: Annotated[tuple[str, ...], Split("\n")] = ()
    """An option of one step, STEP.OPTION=VALUE; shorter, and as often as you like: train.epochs=1."""
