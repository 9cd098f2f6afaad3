"""The options of the demo."""

from pathlib import Path

from data.base.options import Count, Natural, Positive, options
from programs.options import LMOptions


@options
class DemoConfig(LMOptions):
    """The main job on the demo data that ships with the project: no key, no network."""

    out: Path = Path("runs/demo")
    """Folder for every intermediate file and summary.json. What an earlier demo left there is replaced; a folder that
    holds such files of your own is refused."""

    model: str = "bundled:all-MiniLM-L6-v2"
    """Retriever that mines and is trained: model folder, hub name, or the bundled one."""

    num_mined: Natural = 4
    """Mined negatives a row next to the generated ones; the mined-only arm gets as many texts in all."""

    epochs: Count = 3
    """Passes over the 120 rows."""

    lr: Positive = 6e-5
    """Peak learning rate."""
