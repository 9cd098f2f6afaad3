"""One word for where raw data lies: a BEIR folder, a file of pairs, or a Hugging Face data set."""

import logging
from dataclasses import fields
from pathlib import Path

from data.base.errors import STRICT, BadRows, InputError
from data.hub import pinned_revision
from data.readers.beir import is_beir, read_beir
from data.readers.mteb import read_mteb
from data.readers.pairs import PairOptions, read_hf_dataset, read_pairs
from data.readers.recorded import bundled_set
from data.retrieval_set import RetrievalSet

log = logging.getLogger(__name__)


def read_source(spec: str, split: str, bad_rows: BadRows = STRICT, pairs: PairOptions | None = None) -> RetrievalSet:
    """Read `spec`: a BEIR folder, a file of pairs (.jsonl, .json, .csv, .tsv, .parquet), a local data set folder
    (Parquet, JSON, CSV or what `save_to_disk` wrote), `hub:ORG/NAME[@REVISION]`, `mteb:TASK[/SUBSET]` (extra `mteb`),
    or what ships with the project: `bundled:demo` (splits train, seen, dev, test) and `bundled:xquad-sentences`
    (train, dev, test).

    A hub set is read at one commit, which is logged, so that a later run can name it. `pairs` names columns and corpus
    of pairs. Raises InputError.
    """
    path = Path(spec)
    if spec.startswith(("bundled:", "mteb:")) or (path.is_dir() and is_beir(path)):
        # At the top of a pipeline's file they may be meant for another step.
        given = [f"--{option.name}" for option in fields(PairOptions) if getattr(pairs, option.name, None) is not None]
        if given:
            log.warning("warning: %s: without effect, as %s is no file of pairs", " and ".join(given), spec)
    if spec.startswith("bundled:"):
        return bundled_set(spec, split)
    if spec.startswith("mteb:"):
        return read_mteb(spec.removeprefix("mteb:"), split, bad_rows)
    if spec.startswith("hub:"):
        name, _, revision = spec.removeprefix("hub:").partition("@")
        pinned = pinned_revision(name, revision or None)
        if pinned is not None and pinned != revision:
            log.info("%s is at %s now: hub:%s@%s reads the same again", spec, pinned, name, pinned)
        return read_hf_dataset(name, split, pinned, bad_rows, pairs)
    if path.is_dir():
        return (
            read_beir(path, split, bad_rows) if is_beir(path) else read_hf_dataset(spec, split, None, bad_rows, pairs)
        )
    if path.is_file():
        return read_pairs(path, bad_rows, pairs)
    raise InputError(
        "does not exist; expected a BEIR folder, a file of pairs (.jsonl, .json, .csv, .tsv, .parquet), a data set "
        "folder, hub:ORG/NAME, mteb:TASK, bundled:demo or bundled:xquad-sentences",
        file=spec,
    )
