"""`mteb:TASK` or `mteb:TASK/SUBSET`: a retrieval task of the Massive Text Embedding Benchmark as judged queries.

MTEB knows where the data lies and at which revision; ranking and measures stay ours, so that every query keeps its
score. Data that is already in the local hub cache, or a task whose path is a local folder, needs no network.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from data.base.errors import STRICT, BadRows, InputError, first_line
from data.base.fields import Line
from data.readers.judged import Judged
from data.retrieval_set import RetrievalSet

_DEFAULT_SUBSET = "default"


def read_mteb(spec: str, split: str, bad_rows: BadRows = STRICT) -> RetrievalSet:
    """Read TASK or TASK/SUBSET. Raises InputError without the extra `mteb`, for a task that is not plain text
    retrieval, for one that needs code of its own, for an unknown subset or split, and when the data cannot be loaded.
    """
    name, _, subset = spec.partition("/")
    try:
        import mteb
        from mteb.abstasks import AbsTaskRetrieval
    except ImportError as missing:
        raise InputError("needs the extra mteb: pip install 'causalneg[mteb]'", file=f"mteb:{spec}") from missing
    try:
        task = mteb.get_task(name)
    except KeyError as unknown:
        suggestion = re.search(r"Did you mean: '([^']+)'", str(unknown))
        hint = f"; did you mean {suggestion[1]}?" if suggestion else ""
        raise InputError(f"MTEB has no task of this name{hint}", file=f"mteb:{spec}") from unknown
    if not isinstance(task, AbsTaskRetrieval):
        raise InputError(f"is a {task.metadata.type} task; only retrieval tasks can be read", file=f"mteb:{spec}")
    return retrieval_set_of(task, subset, split, bad_rows)


def retrieval_set_of(task: Any, subset: str, split: str, bad_rows: BadRows = STRICT) -> RetrievalSet:
    """The judged queries of an MTEB retrieval task; an empty `subset` is the only one. Raises InputError."""
    name = f"mteb:{task.metadata.name}" + (f"/{subset}" if subset else "")
    if task.metadata.dataset.get("trust_remote_code"):
        raise InputError("its data set comes as code, which is never run here", file=name)
    if split not in task.metadata.eval_splits:
        raise InputError(f"has no split {split!r}, but {', '.join(task.metadata.eval_splits)}", file=name)
    subsets = list(task.hf_subsets) if task.metadata.is_multilingual else [_DEFAULT_SUBSET]
    if not subset and len(subsets) == 1:
        subset = subsets[0]
    if subset not in subsets:
        raise InputError(f"name one of its subsets, like {name.partition('/')[0]}/{subsets[0]}: {', '.join(subsets)}",
                         file=name)  # fmt: skip
    # Only what is asked for is fetched.
    task.filter_eval_splits(eval_splits=[split])
    if task.metadata.is_multilingual:
        task.hf_subsets = [subset]
    try:
        task.load_data()
    except Exception as error:  # hub, cache and format faults of many unrelated types
        raise InputError(f"cannot be loaded: {first_line(error)}", file=name) from error
    found = task.dataset[subset][split]
    if found.get("top_ranked"):
        raise InputError("ranks given candidates only; expected a task that searches the whole corpus", file=name)
    topics, corpus = found["queries"], found["corpus"]
    if "text" not in topics.column_names or "text" not in corpus.column_names or "instruction" in topics.column_names:
        raise InputError("expected queries and passages of plain text, without an instruction each", file=name)
    # Joined as MTEB itself does it: the same task must give the same figures.
    judged = Judged(f"{name}:{split}", bad_rows, join=lambda title, text: f"{title or ''} {text}")
    passages = judged.texts(_lines(corpus, f"{name} corpus"), "passage", name)
    queries = judged.texts(_lines(topics, f"{name} queries"), "query", name)
    relevant = [
        {"query-id": query_id, "corpus-id": passage_id, "score": grade}
        for query_id, graded in found["relevant_docs"].items()
        for passage_id, grade in graded.items()
    ]
    qrels = judged.judgements(_lines(relevant, f"{name} qrels"), passages, queries, name)
    return RetrievalSet(
        name=judged.name,
        passages=passages,
        queries={query_id: queries[query_id] for query_id in qrels},
        qrels=qrels,
        shared_ids=bool(task.ignore_identical_ids),
    )


def _lines(values: Iterable[dict[str, Any]], file: str) -> Iterator[Line]:
    for number, value in enumerate(values, start=1):
        yield Line({"_id": value.get("id")} | value, file, number)
