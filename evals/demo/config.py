"""The options of the demo."""

from pathlib import Path

from data.base.options import Natural, options
from programs.options import LMOptions
from trainer.config import Recipe


@options
class DemoConfig(Recipe, LMOptions):
    """The main job on the demo data that ships with the project: no key, no network."""

    out: Path = Path("runs/demo")
    """Folder for every intermediate file and summary.json. What an earlier demo left there is replaced, but for the
    answers to the same questions, which cost nothing then; a folder that holds such files of your own is refused."""

    model: str = "bundled:all-MiniLM-L6-v2"
    """Retriever that mines and is trained: model folder, hub name, or the bundled one."""

    num_mined: Natural = 4
    """Mined negatives a row next to the generated ones; the mined-only arm gets as many texts in all."""
