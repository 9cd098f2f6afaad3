"""One word for where raw data lies: a BEIR folder, a JSONL file of pairs, or a Hugging Face data set."""

from pathlib import Path

from data.beir import read_beir
from data.demo_set import demo_split
from data.errors import InputError
from data.jsonl import BadRows
from data.pairs import read_hf_dataset, read_pairs
from data.retrieval_set import RetrievalSet


def read_source(spec: str, split: str, bad_rows: BadRows | None = None) -> RetrievalSet:
    """Read `spec`: a BEIR folder, FILE.jsonl with pairs, a local data set folder, `hub:ORG/NAME[@REVISION]`, or
    `bundled:demo`, the demo data (splits train, seen, dev, test). Raises InputError."""
    if spec == "bundled:demo":
        return demo_split(split)
    if spec.startswith("hub:"):
        name, _, revision = spec.removeprefix("hub:").partition("@")
        return read_hf_dataset(name, split, revision or None, bad_rows)
    path = Path(spec)
    if path.is_dir():
        beir = (path / "corpus.jsonl").exists() or (path / "qrels").exists()
        return read_beir(path, split, bad_rows) if beir else read_hf_dataset(spec, split, bad_rows=bad_rows)
    if path.is_file():
        return read_pairs(path, bad_rows)
    raise InputError(
        "does not exist; expected a BEIR folder, a .jsonl file of pairs, a data set folder, hub:ORG/NAME or "
        "bundled:demo",
        file=spec,
    )
