"""The command line: every user's fault is one clear line and exit code 2."""

from pathlib import Path

import pytest

from tests.programs.conftest import Refusal, Rows

# What is asked of no server: the fault of a flag is found before.
_SOME_LM = ("lm=openai/x", "api_base=http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["lm=gpt-99-imaginary"], "unknown model 'gpt-99-imaginary'"),
        (["lm=nobody/model"], "unknown model"),
        (["lm=openai/gpt-4.1-mini"], "OPENAI_API_KEY"),
        (["lm=recorded:other"], "expected recorded:demo"),
        (["verifier_lm=nobody/model", *_SOME_LM], "verifier-lm"),
        (["api_key_env=NO_SUCH_VARIABLE", "lm=openai/x"], "NO_SUCH_VARIABLE"),
        (["profile=nowhere", *_SOME_LM], "generic, help_centre, multi_hop_qa"),
        (["profile=missing.toml", *_SOME_LM], "missing.toml"),
        (["concurrency=0"], "concurrency"),
        (["canary_share=1.5"], "canary-share"),
        (["temperature=9"], "temperature"),
        (["extra=reasoning_effort"], "--extra: expected a JSON object, or KEY=VALUE pairs"),
        (['extra={"seed": 1'], "--extra: expected a JSON object, or KEY=VALUE pairs"),
        (["extra=max_tokens=5", "lm=openai/x", "api_base=http://127.0.0.1:1"], "'max_tokens' is set by the run itself"),
        (["extra=api_key=hush", "lm=openai/x", "api_base=http://127.0.0.1:1"], "'api_key' looks like a secret"),
        (["rows=absent.jsonl"], "absent.jsonl"),
        (["rows=/"], "cannot read"),
    ],
)
def test_one_line_and_code_2(
    flags: list[str], words: str, made_rows: Rows, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = tmp_path / "out"
    line = refusal("synthesize", f"out={out}", *([] if "rows=" in str(flags) else [f"rows={made_rows(2)}"]), *flags)
    assert words in line and "hush" not in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "holds no rows"), ("\n\n", "holds no rows"), ('{"query": "q"}\n', ":1: field 'positives'"), ("{", ":1: ")],
)
def test_bad_rows(content: str, words: str, tmp_path: Path, refusal: Refusal) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(content)
    assert words in refusal("synthesize", f"rows={rows}", f"out={tmp_path / 'out'}")
