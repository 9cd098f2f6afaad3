"""Do the negatives give away where they come from, to the retriever's score, to its embeddings, to a word counter?

A retriever that can tell generated text from corpus text can lower its loss by learning the origin instead of
relevance (paper, section on query-view entropy). Axes: P passages.
"""

from dataclasses import dataclass

import numpy as np

from data.base.errors import InputError
from data.base.stats import Interval
from data.base.text import same_text_key
from evals.diagnostics.artefacts import FEWEST_ROWS, Artefact, find_artefacts, rows_with_both
from evals.diagnostics.embedded_rows import GENERATED, KINDS, MINED, POSITIVE, EmbeddedRows, Ints
from evals.diagnostics.probes import Information, check_two_sources, embedding_probe, source_information, words_probe

LEAK_AUC = 0.6
"""A probe whose AUC interval lies above this can tell the sources apart well enough to warn of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderLeak:
    """How far an encoder gives the source of a negative away.

    score: mutual information of source and query-passage score over all (query, negative) pairs. margin: the same for
    the score minus the positive's, in which the queries' own levels are gone. Both are None where no row has mined
    negatives: positives score high by being right. embedding_auc: linear probe on distinct passages.
    """

    score: Information | None
    margin: Information | None
    embedding_auc: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLeak:
    """How far the text alone gives the source away, whatever the encoder.

    words_auc: linear probe on the words of distinct passages. compared_with: the corpus side of all probes, `mined`, or
    `positive` where no row has mined ones. artefacts_absent: why no length or phrase could be compared, else "".
    """

    words_auc: Interval
    artefacts: tuple[Artefact, ...]
    artefacts_absent: str
    compared_with: str
    num_generated: int
    num_corpus: int


def encoder_leak(embedded: EmbeddedRows, *, num_permutations: int = 200, seed: int = 0) -> EncoderLeak:
    """Measure an encoder's leak. Raises InputError when there is nothing, or too little, to compare."""
    chosen, group = _probed(embedded)
    pairs = embedded.kind_P != POSITIVE
    generated, rows = embedded.kind_P[pairs] == GENERATED, embedded.row_P[pairs]
    score, margin = (
        source_information(values[pairs], generated, rows, num_permutations=num_permutations, seed=seed)
        if embedded.count(MINED)
        else None
        for values in (embedded.scores_P, embedded.margins_P)
    )
    is_generated = embedded.kind_P[chosen] == GENERATED
    return EncoderLeak(
        score=score,
        margin=margin,
        embedding_auc=embedding_probe(embedded.passages_PD[chosen], is_generated, group, seed=seed),
    )


def text_leak(embedded: EmbeddedRows, *, seed: int = 0) -> TextLeak:
    """Measure the leak in the texts. Raises InputError when there is nothing, or too little, to compare."""
    chosen, group = _probed(embedded)
    is_generated, texts = embedded.kind_P[chosen] == GENERATED, [embedded.texts_P[p] for p in chosen]
    num_rows = len(rows_with_both(is_generated, group))
    return TextLeak(
        words_auc=words_probe(texts, is_generated, group, seed=seed),
        artefacts=tuple(find_artefacts(texts, is_generated, group, seed=seed)),
        artefacts_absent=""
        if num_rows >= FEWEST_ROWS
        else f"too few rows: {num_rows} have generated and corpus passages, {FEWEST_ROWS} are needed",
        compared_with=_corpus_side(embedded),
        num_generated=int(is_generated.sum()),
        num_corpus=int((~is_generated).sum()),
    )


def leak_warnings(text: TextLeak, encoder: EncoderLeak) -> list[str]:
    """One line for each finding that a user should act on: probes well above chance, then the strongest artefacts."""
    found = []
    if text.words_auc.low > LEAK_AUC:
        found.append(f"a word counter tells generated from corpus passages: AUC {text.words_auc}")
    if encoder.embedding_auc.low > LEAK_AUC:
        found.append(f"the embeddings give generated passages away to a linear probe: AUC {encoder.embedding_auc}")
    return found + [str(artefact) for artefact in text.artefacts]


def _corpus_side(embedded: EmbeddedRows) -> str:
    return "mined" if embedded.count(MINED) else "positive"


def _probed(embedded: EmbeddedRows) -> tuple[Ints, Ints]:
    if not embedded.count(GENERATED):
        raise InputError("no row has a generated negative: the source leak compares generated with corpus passages")
    chosen, group = distinct_passages(embedded, _corpus_side(embedded))
    check_two_sources(embedded.kind_P[chosen] == GENERATED)
    return chosen, group


def distinct_passages(embedded: EmbeddedRows, corpus_side: str) -> tuple[Ints, Ints]:
    """Indices of the passages for the probes, each text once, and the row that each counts with.

    One corpus passage is often mined for many queries, and may be the positive that a generated one was made from. Were
    it in several folds, a probe would pass by remembering texts; so it counts once, with the row whose positive it is,
    else with the first that has it.
    """
    keys = [same_text_key(text) for text in embedded.texts_P]
    home: dict[str, int] = {}
    for p in np.flatnonzero(embedded.kind_P == POSITIVE).tolist():
        home.setdefault(keys[p], int(embedded.row_P[p]))
    chosen, group = [], []
    seen: set[str] = set()
    for p, key in enumerate(keys):
        kind, row = KINDS[embedded.kind_P[p]], int(embedded.row_P[p])
        if kind in (corpus_side, "generated") and key not in seen:
            seen.add(key)
            chosen.append(p)
            group.append(row if kind == "generated" else home.get(key, row))
    return np.array(chosen, dtype=np.int64), np.array(group, dtype=np.int64)
