"""FlagEmbedding's and Tevatron's own data sets read the converted files; skipped where they are not installed.

They pin old versions of what this project uses, so install them beside it without their dependencies:
`pip install --no-deps FlagEmbedding tevatron` in an environment of its own.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from data.formats.convert import write_format
from data.readers.demo import demo_items

pytestmark = pytest.mark.slow


@pytest.fixture
def tokenizer(tiny_bert: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


def converted(name: str, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    path = folder / f"{name}.jsonl"
    write_format(path, name, [item.row for item in demo_items()[:12]])
    return path, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_flag_embedding_reads_its_lines(tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("FlagEmbedding", reason="FlagEmbedding is not installed")
    from FlagEmbedding.abc.finetune.embedder.AbsArguments import AbsEmbedderDataArguments
    from FlagEmbedding.abc.finetune.embedder.AbsDataset import AbsEmbedderTrainDataset

    path, lines = converted("flag-embedding", tmp_path)
    arguments = AbsEmbedderDataArguments(train_data=[str(path)], train_group_size=4, cache_path=str(tmp_path / "cache"))
    read = AbsEmbedderTrainDataset(arguments, tokenizer)
    assert len(read) == len(lines)
    for number, line in enumerate(lines):
        query, passages, _ = read[number]
        assert query == line["query"] and passages[0] in line["pos"]
        assert len(passages) == 4 and set(passages[1:]) <= set(line["neg"])


def test_tevatron_reads_its_lines(tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("tevatron", reason="tevatron is not installed")
    from tevatron.arguments import DataArguments
    from tevatron.datasets import HFTrainDataset
    from tevatron.datasets.preprocessor import TrainPreProcessor

    path, lines = converted("tevatron", tmp_path)
    arguments = DataArguments(dataset_name="json", train_n_passages=4)
    arguments.train_path, arguments.dataset_language, arguments.dataset_split = [str(path)], "default", "train"
    reader = HFTrainDataset(tokenizer, arguments, str(tmp_path / "cache"))
    # The one that its own data sets are read with; for "json" it expects tokens already.
    reader.preprocessor, reader.proc_num = TrainPreProcessor, 1
    read = reader.process()
    assert len(read) == len(lines)
    for found, line in zip(read, lines, strict=True):
        assert len(found["positives"]) == len(line["positive_passages"])
        assert len(found["negatives"]) == len(line["negative_passages"])
        # Without a title it puts a blank in front, which no tokenizer minds.
        text = line["negative_passages"][0]["text"]
        assert found["negatives"][0] == tokenizer.encode(
            text, add_special_tokens=False, truncation=True, max_length=128
        )
