"""Programs: the prompts as DSPy modules, the language models they run on, and the synthesis run."""

import os

# Read by the two libraries while they are imported: without the first, litellm fetches its price list from the network;
# with the second, nothing is ever written to the home folder (answers are kept in the run folder's own store).
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("DSPY_CACHEDIR", os.devnull)
