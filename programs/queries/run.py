"""`just queries`: a corpus without queries becomes a BEIR folder with train, dev and test queries.

The work on passages is that of a synthesis (store, budget, retries, resuming); a passage is a row without a query.
"""

import logging
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.base.cli import config_dict
from data.base.errors import InputError
from data.base.fields import Line
from data.base.files import open_text, write_json
from data.base.options import shared_options
from data.base.outputs import claim_folder
from data.base.text import clean_text, content_id, same_text_key
from data.readers.beir import write_beir
from data.readers.pairs import read_corpus
from data.records import Passage, Row, row_content_id
from data.retrieval_set import RetrievalSet
from data.row_files import file_kind, read_objects
from programs.lm.budget import Budget, BudgetSpentError
from programs.lm.pacing import ConcurrencyByPlace
from programs.lm.servers.recorded import CORPORA
from programs.modules.query_writer import QueryWriter
from programs.options import FallbackOptions, JudgingOptions, LMOptions
from programs.profiles.profile import load_profile
from programs.queries.config import QueriesConfig
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.roles import complete_cassette, open_roles, resolve_roles, work_key
from programs.synthesis.run import work_here
from programs.synthesis.store import RunStore
from programs.synthesis.summary import usage_summary
from programs.synthesis.workers import RowWorkers
from trainer.encoder import Encoder

log = logging.getLogger(__name__)
WRITTEN = ("store.sqlite", "config.json", "summary.json", "corpus.jsonl", "queries.jsonl", "qrels")
SPLITS = ("train", "dev", "test")
_SAMPLES = 10
# Scores of queries with passages that are held at once.
_SCORES_AT_ONCE = 16_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenQuery:
    """A query, and the passage that it was written for and that answers it."""

    id: str
    text: str
    passage_id: str


def write_queries(config: QueriesConfig) -> dict[str, Any]:
    """Write, judge, filter; returns what summary.json holds. Raises InputError, also when no query is left; finished
    passages are kept."""
    if config.lm in CORPORA:
        raise InputError("answers are recorded for the negatives' own prompts alone: name a real model", field="lm")
    corpus = read_corpus(config.corpus)
    chosen = sorted(corpus)
    random.Random(config.seed).shuffle(chosen)
    # An id may change between runs, the text is what was asked about; a text that occurs twice is asked about once.
    texts = {same_text_key(corpus[passage_id]): passage_id for passage_id in reversed(chosen)}
    chosen = [passage_id for passage_id in chosen if texts[same_text_key(corpus[passage_id])] == passage_id]
    rows = [Row(query_id=i, query="-", positives=(Passage(id=i, text=corpus[i]),)) for i in chosen[: config.max_rows]]
    samples = () if config.samples is None else read_samples(config.samples, config.seed)
    profile = replace(load_profile(config.profile), style=samples)
    # What is wrong with the retriever is said before a call is paid for.
    encoder = Encoder.load(config.retriever) if config.round_trip else None
    # The work on rows is told what a synthesis is told.
    shared = shared_options(config, FallbackOptions) | shared_options(config, JudgingOptions)
    shared |= shared_options(config, LMOptions) | {"verify": "one-by-one"}
    run = SynthesizeConfig(
        rows=Path(config.corpus), out=config.out, negatives_per_row=config.queries_per_passage, canary_share=0.0,
        verify_mined=0, temperature=config.temperature, repairs=0, **shared,
    )  # fmt: skip
    with ExitStack() as stack:
        budget = Budget(usd=config.budget_usd, tokens=config.budget_tokens)
        specs = resolve_roles(stack, run, budget)
        claim_folder("queries", config.out, WRITTEN, inputs=[config.corpus, config.samples, config.profile])
        store = stack.enter_context(RunStore(config.out / "store.sqlite"))
        budget.add_spent(store.usage(whole_folder=True).values())
        program = QueryWriter(
            queries_per_passage=config.queries_per_passage, malformed_retries=config.malformed_retries
        )
        limits = ConcurrencyByPlace(config.concurrency)
        _, layouts = open_roles(program, specs, run, store=store, budget=budget, limits=limits)
        store.program = work_key(program, profile, specs, layouts, run)
        complete_cassette(run, store)
        write_json(config.out / "config.json", config_dict(config))
        try:
            work_here(RowWorkers(program, profile, run, store, limits.all()), specs, iter(rows), len(rows))
        except BudgetSpentError as spent:
            raise InputError(
                f"{spent}; finished passages are kept: a larger budget on the same command goes on"
            ) from None
        counts, written = _collect(rows, store)
        usage = store.usage()
    kept = written if encoder is None or not written else found_again(written, corpus, encoder, config.round_trip)
    counts["not_found_again"] = len(written) - len(kept)
    if not kept:
        raise InputError(
            f"no query is left: {_dropped(counts)}; look at a few passages, or try another model", field="lm"
        )
    sizes = _write_splits(kept, corpus, config)
    summary = {
        "config": config_dict(config), "passages": len(corpus), "asked": len(rows), "counts": dict(counts),
        "kept": len(kept), "splits": sizes, "usage": usage_summary(usage, len(kept)),
    }  # fmt: skip
    write_json(config.out / "summary.json", summary)
    return summary


def run_queries(config: QueriesConfig) -> None:
    """The command: write them, and say what came out."""
    found = write_queries(config)
    usage = found["usage"]
    sizes = ", ".join(f"{split} {count}" for split, count in found["splits"].items())
    sys.stdout.write(
        f"kept {found['kept']} queries for {found['asked']} of {found['passages']} passages ({sizes})\n"
        f"  dropped: {_dropped(found['counts'])}\n"
        f"  {usage['requests']} requests, {usage['tokens']} tokens, cost: {usage['cost_in_words']}\n"
    )


def read_samples(file: Path, seed: int) -> tuple[str, ...]:
    """A seeded choice of the queries in a file, one a line. Raises InputError."""
    if file_kind(file) in (".txt", ""):
        with open_text(file) as opened:
            found = [clean_text(line) for line in opened]
    else:
        found = [_sample(line) for line in read_objects(file)]
    found = list(dict.fromkeys(text for text in found if text))
    if not found:
        raise InputError("holds no query", file=file)
    return tuple(random.Random(seed).sample(found, min(_SAMPLES, len(found))))


def _sample(line: Line) -> str:
    value = line.value if isinstance(line.value, dict) else {}
    text = value.get("text") or value.get("query")
    if not isinstance(text, str):
        raise line.fault("expected a text or a query")
    return clean_text(text)


def _collect(rows: Sequence[Row], store: RunStore) -> tuple[Counter[str], list[WrittenQuery]]:
    """What became of the queries, and the accepted ones; one that is written twice would have two passages, and its
    judgements be incomplete, so it is dropped."""
    counts: Counter[str] = Counter()
    written: dict[str, WrittenQuery | None] = {}
    for row in rows:
        synthesis = store.load(row_content_id(row))
        if synthesis is None or synthesis.failure is not None:
            counts["passages_failed"] += 1
            continue
        counts["passages_without_a_query"] += not synthesis.candidates
        for candidate in synthesis.candidates:
            counts["written"] += 1
            if candidate.fate != "accepted":
                refused = candidate.fate == "not_verified" and candidate.verdict is not None
                counts["not_answered" if refused else candidate.fate] += 1
                continue
            key, passage = same_text_key(candidate.text), row.positives[0]
            if key in written:
                counts["fits_two_passages"] += 1 + (written[key] is not None)
                written[key] = None
            else:
                query_id = content_id(candidate.text, passage.text)
                written[key] = WrittenQuery(id=query_id, text=candidate.text, passage_id=passage.id)
    return counts, [query for query in written.values() if query is not None]


def found_again(
    written: Sequence[WrittenQuery], corpus: Mapping[str, str], encoder: Encoder, first: int
) -> list[WrittenQuery]:
    """The queries whose passage the encoder ranks among the `first` so many of the corpus."""
    place = {passage_id: i for i, passage_id in enumerate(corpus)}
    passages_PD = encoder.encode(list(corpus.values()), "document", progress=True)
    queries_QD = encoder.encode([query.text for query in written], "query", progress=True)
    step, kept = max(1, _SCORES_AT_ONCE // len(corpus)), []
    for start in range(0, len(written), step):
        part = written[start : start + step]
        scores_QP = queries_QD[start : start + step] @ passages_PD.T
        own_Q = scores_QP[np.arange(len(part)), [place[query.passage_id] for query in part]]
        better_Q = (scores_QP > own_Q[:, None]).sum(axis=1)
        kept += [query for query, better in zip(part, better_Q, strict=True) if better < first]
    return kept


def _write_splits(kept: Iterable[WrittenQuery], corpus: dict[str, str], config: QueriesConfig) -> dict[str, int]:
    """All queries of a passage are in one split, the same one in every run."""
    by_split: dict[str, list[WrittenQuery]] = {split: [] for split in SPLITS}
    for query in kept:
        hundredth = int(content_id(str(config.seed), corpus[query.passage_id]), 16) % 100
        held_out = [config.dev_percent, 2 * config.dev_percent]
        by_split["dev" if hundredth < held_out[0] else "test" if hundredth < held_out[1] else "train"].append(query)
    every = {query.id: query.text for queries in by_split.values() for query in queries}
    for split, queries in by_split.items():
        if queries:
            qrels = {query.id: {query.passage_id: 1} for query in queries}
            found = RetrievalSet(name=config.out.name, passages=corpus, queries=every, qrels=qrels)
            write_beir(config.out, found, split)
        else:
            # What an earlier start held out may be trained on now.
            (config.out / "qrels" / f"{split}.tsv").unlink(missing_ok=True)
    return {split: len(queries) for split, queries in by_split.items()}


_WORDS = {
    "not_answered": "not answered by their passage",
    "not_found_again": "not found again by the retriever",
    "fits_two_passages": "written for two passages",
    "copies_a_passage": "repeat a sample or each other",
    "not_verified": "without a usable verdict",
    "not_written": "empty or too long",
    "passages_failed": "passages without a usable answer",
    "passages_without_a_query": "passages that nobody would ask for",
}


def _dropped(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]} {words}" for name, words in _WORDS.items() if counts.get(name)) or "none"
