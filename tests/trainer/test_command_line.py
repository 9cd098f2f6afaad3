"""The commands as a user meets them: options frozen against sprawl, faults as one line and exit code 2."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data.records import Negative, Passage, Row
from data.row_files import write_rows
from trainer.config import TrainConfig
from trainer.mining.config import MineConfig

# A new option is a decision: add it here on purpose.
TRAIN_OPTIONS = {
    *("rows", "out", "model", "revision", "dev", "dev_split", "epochs", "batch_size", "grad_accumulation", "lr"),
    *("warmup_ratio", "weight_decay", "clip", "temperature", "in_batch", "entropy_weight", "entropy_temperature"),
    *(
        "dropout",
        "max_length",
        "max_mined",
        "max_generated",
        "max_generated_share",
        "generated_weight",
        "relevance",
        "grade_sharpness",
        "grade_mined",
        "mask_above",
        "preset",
        "max_tokens_per_step",
        "eval_every",
        "patience",
    ),
    *("checkpoint_every", "keep_checkpoints", "seed", "device", "restart", "skip_bad_rows"),
    *("precision", "gradient_checkpointing", "lora_rank", "matryoshka", "tracking"),
    *("dimensions", "query_prompt", "document_prompt", "remine_every", "remine_like"),
}
MINE_OPTIONS = {
    *("data", "split", "out", "model", "revision", "num_negatives", "rank_from", "rank_to", "max_score"),
    *("absolute_margin", "relative_margin", "sampling", "seed", "max_length", "backend", "cache", "device"),
    *("skip_bad_rows", "dimensions", "query_prompt", "document_prompt"),
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("config", "options"), [(TrainConfig, TRAIN_OPTIONS), (MineConfig, MINE_OPTIONS)])
def test_options_are_frozen(config: type, options: set[str]) -> None:
    assert {field.name for field in dataclasses.fields(config)} == options


@pytest.mark.parametrize(("command", "options"), [("train", TRAIN_OPTIONS), ("mine", MINE_OPTIONS)])
def test_help_documents_every_option(command: str, options: set[str]) -> None:
    result = run(command, "--help")
    assert result.returncode == 0
    for option in options:
        match = re.search(rf"--{option.replace('_', '-')}\b(.*?)(?=│ --|╰)", result.stdout, re.DOTALL)
        assert match is not None, option
        assert len(re.sub(r"\(default.*|\(required\)|[│\s{}|A-Z-]", "", match[1], flags=re.DOTALL)) > 10, option


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, tiny_bert: Path) -> None:
    row = Row(query_id="q", query="q", positives=(Passage(id="p", text="p"),))
    write_rows(tmp_path / "rows.jsonl", [row])
    write_rows(tmp_path / "full.jsonl", [dataclasses.replace(row, negatives=(Negative(text="n", source="mined"),))])
    (tmp_path / "bad.jsonl").write_text('{"query": "q", "positives": []}\n')
    out = f"--out={tmp_path / 'run'}"
    cases = {
        ("train", f"--rows={tmp_path}/none.jsonl", out): "cannot read",
        ("train", f"--rows={tmp_path}/bad.jsonl", out): "bad.jsonl:1: field 'positives'",
        ("train", f"--rows={tmp_path}/full.jsonl", out, "--model=./nowhere"): "unknown model",
        ("train", f"--rows={tmp_path}/rows.jsonl", out, f"--model={tiny_bert}"): "no negatives in any row",
        ("train", f"--rows={tmp_path}/rows.jsonl", out, "--temperature=0"): "--temperature",
        ("mine", f"--data={tmp_path}/none", f"--out={tmp_path}/m.jsonl"): "does not exist",
    }
    for arguments, words in cases.items():
        result = run(*arguments)
        assert result.returncode == 2, result
        assert words in result.stderr and "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "m.jsonl").exists()
