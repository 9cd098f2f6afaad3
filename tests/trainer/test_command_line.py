"""The commands as a user meets them: faults as one line and exit code 2."""

import dataclasses
import subprocess
import sys
from pathlib import Path

from data.records import Negative, Passage, Row
from data.row_files import write_rows


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "trainer", *arguments], capture_output=True, text=True, check=False)


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
