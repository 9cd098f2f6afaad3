"""Programs: the prompts as DSPy modules, the language models they run on, and the synthesis run."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read by the two libraries while they are imported: without the first, litellm fetches its price list from the network;
# with the second, nothing is ever written to the home folder (answers are kept in the run folder's own store).
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("DSPY_CACHEDIR", os.devnull)

if TYPE_CHECKING:
    from programs.modules.row_program import RowInputs
    from programs.modules.synthesizer import Synthesizer
    from programs.synthesis.config import SynthesizeConfig
    from programs.synthesis.run import synthesize

__all__ = ["RowInputs", "SynthesizeConfig", "Synthesizer", "synthesize"]
_HOMES = {
    "RowInputs": ".modules.row_program",
    "SynthesizeConfig": ".synthesis.config",
    "Synthesizer": ".modules.synthesizer",
    "synthesize": ".synthesis.run",
}


def __getattr__(name: str) -> Any:
    # On demand: dspy takes seconds to import, which --help should not.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
