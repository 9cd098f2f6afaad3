"""The options of publishing."""

from pathlib import Path

from data.base.options import options
from data.hub import HubOptions


@options
class PublishConfig(HubOptions):
    """Complete the card of a trained model with what was measured, and push the folder to the Hugging Face hub."""

    model: Path
    """Folder of the model, as `train` wrote it: OUT/model."""

    evaluations: tuple[Path, ...] = ()
    """Files that `just eval out=FILE` wrote; their means and intervals go into the card, in place of earlier ones."""
