"""The settings of this room's commands: command line, saved config and test fixture in one."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """The main job on the demo data that ships with the project: no key, no network."""

    out: Path = Path("runs/demo")
    """Folder for every intermediate file and summary.json. What an earlier demo left there is replaced; a folder that
    holds such files of your own is refused."""

    model: str = "bundled:all-MiniLM-L6-v2"
    """Retriever that mines and is trained: model folder, hub name, or the bundled one."""

    lm: str = "recorded:demo"
    """Language model that writes and verifies: recorded answers for the demo's queries, or any litellm model string."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server for `lm` (None: the provider's own)."""

    num_mined: int = 4
    """Mined negatives a row next to the generated ones; the mined-only arm gets as many texts in all."""

    epochs: int = 3
    """Passes over the 120 rows."""

    lr: float = 6e-5
    """Peak learning rate."""

    seed: int = 0
    """Seed of row order and dropout."""
