"""`python -m programs profile`: drafts a corpus profile from a sample of the corpus, for a person to read and edit."""

import json
import random
import sys
from contextlib import ExitStack
from dataclasses import dataclass

import dspy
from dspy.utils.exceptions import AdapterParseError

from data.base.errors import InputError
from data.base.files import atomic_writer
from data.base.outputs import Outputs
from data.base.text import clean_text
from data.readers.source import read_source
from data.retrieval_set import RetrievalSet
from programs.lm.adapters import LAYOUTS, make_adapter
from programs.lm.budget import Budget
from programs.lm.faults import CallError, redact
from programs.lm.models import Models, log_roles
from programs.lm.role_lm import RoleLM
from programs.lm.servers.recorded import CORPORA
from programs.modules.predictors import as_data
from programs.modules.signatures import DescribeCorpus
from programs.options import AdapterName
from programs.profiles.config import ProfileConfig
from programs.profiles.profile import CorpusProfile, load_profile

_SHOWN_CHARS = 800
_MOST_STYLE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the model is shown: pairs of a query and a relevant passage, and passages of the corpus."""

    pairs: tuple[str, ...]
    passages: tuple[str, ...]


def draft_profile(config: ProfileConfig) -> CorpusProfile:
    """Ask the model, write `config.out` and return the profile as a run will read it. Raises InputError."""
    outputs = Outputs("profile", [config.out], inputs=[config.data], force=config.overwrite, flag="overwrite")
    if config.lm in CORPORA:
        raise InputError("answers are recorded for the negatives' own prompts alone: name a real model", field="lm")
    sample = draw_sample(read_source(config.data, config.split), config.sample, config.seed)
    with ExitStack() as stack:
        models = Models(stack, config)
        spec = models.resolve(config.lm, flag="lm", temperature=0.0)
        log_roles({"generator": [spec]})
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        budget.check_priced(spec, "lm")
        lm = RoleLM("generator", spec, config.retries, budget=budget)
        layouts: list[AdapterName] = list(LAYOUTS) if config.adapter == "auto" else [config.adapter]
        relevance, typical = _ask(lm, layouts, sample)
    style = tuple(dict.fromkeys(sample.passages[n - 1] for n in typical if 1 <= n <= len(sample.passages)))
    with atomic_writer(config.out) as file:
        file.write(profile_text(relevance, style[:_MOST_STYLE], config))
    outputs.record()
    return load_profile(str(config.out))


def run_profile(config: ProfileConfig) -> None:
    """The command: draft, and show what to look at."""
    profile = draft_profile(config)
    sys.stdout.write(
        f"{profile.relevance}\n\nwritten: {config.out} with {len(profile.style)} passages as style. Read and edit it "
        "before it is used\n"
    )


def draw_sample(corpus: RetrievalSet, size: int, seed: int) -> Sample:
    """A seeded choice of pairs and passages, cut to a length at which a page of them can be read."""
    rng = random.Random(seed)
    queries = [query_id for query_id in sorted(corpus.queries) if corpus.positives(query_id)]
    chosen = rng.sample(queries, min(size, len(queries)))
    passages = rng.sample(sorted(corpus.passages), min(size, len(corpus.passages)))
    return Sample(
        pairs=tuple(
            f"query: {corpus.queries[query_id]}\npassage: {next(iter(corpus.positives(query_id).values()))}"[
                :_SHOWN_CHARS
            ]
            for query_id in chosen
        ),
        passages=tuple(corpus.passages[passage_id][:_SHOWN_CHARS] for passage_id in passages),
    )


def _ask(lm: RoleLM, layouts: list[AdapterName], sample: Sample) -> tuple[str, list[int]]:
    """Relevance and the numbers of typical passages, in the first layout that the model answers readably in."""
    predictor = dspy.Predict(DescribeCorpus)
    predictor.lm = lm
    numbered = [f"{number}. {text}" for number, text in enumerate(sample.passages, start=1)]
    failures = []
    for name in layouts:
        with dspy.context(adapter=make_adapter(name, lm.spec)):
            try:
                found = predictor(pairs=as_data(list(sample.pairs)), passages=as_data(numbered))
            # An answer can be nested too deep for its parser.
            except (AdapterParseError, CallError, RecursionError) as error:
                failures.append(
                    f"{name}: {redact(str(error), 120) if isinstance(error, CallError) else 'not readable'}"
                )
                continue
        if relevance := " ".join(clean_text(found.relevance).split()):
            return relevance, list(found.typical)
        failures.append(f"{name}: empty")
    raise InputError(f"{lm.spec.name} described the corpus in no layout ({'; '.join(failures)})", field="lm")


def profile_text(relevance: str, style: tuple[str, ...], config: ProfileConfig) -> str:
    """The TOML file. A JSON string is a TOML string, whatever is in it."""
    passages = "".join(f"    {json.dumps(text, ensure_ascii=False)},\n" for text in style)
    return (
        f"# Drafted by {json.dumps(config.lm)} from {config.sample} pairs: read it and edit it before it is used.\n"
        "# relevance: when does a passage answer a query of this corpus, and which near miss does not?\n"
        f"relevance = {json.dumps(relevance, ensure_ascii=False)}\n\n"
        "# style: passages that show how the corpus reads. The model imitates how they read, not what they say.\n"
        f"style = [\n{passages}]\n"
    )
