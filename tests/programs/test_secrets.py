"""A planted key is in nothing that a run writes: no file, no log line, no error, also when the provider repeats it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from programs.faults import CallError, protect, redact
from tests.fakes.fake_process import ROOT, Behaviour, fake_process

# Like no provider's keys, in a variable that does not sound like one: nothing but the exact value can find it.
KEY = "Planted/Geheim+42=xyzzy"
VARIABLE = "MY_ACCESS"


@pytest.mark.slow
def test_a_planted_key_is_nowhere(made_rows: Callable[[int], Path], tmp_path: Path) -> None:
    # The last one ends the run, with the provider's words in the error.
    faults = (None, "500", "malformed", None, "429", "drop", "not_json", "cut_body", None, "503", "wrong_schema", "401")
    rows, out = made_rows(2), tmp_path / "out"
    with fake_process(tmp_path / "server.jsonl", Behaviour(faults=faults, echo_key=True, key=KEY)) as server:
        flags = [f"rows={rows}", f"out={out}", "lm=openai/fake", f"api_base={server.api_base}", "adapter=chat"]
        ended = subprocess.run(
            [sys.executable, "-m", "programs", "synthesize", *flags, f"api_key_env={VARIABLE}", "retries=5"],
            cwd=ROOT,
            # The libraries' own logs at their most talkative.
            env=os.environ | {VARIABLE: KEY, "LITELLM_LOG": "DEBUG", "OPENAI_LOG": "debug"},
            capture_output=True,
            check=False,
        )
        assert {served.fault for served in server.log()} == set(faults)
    assert ended.returncode == 2, ended.stderr.decode()[-2000:]
    written = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {"store.sqlite", "config.json"} <= written.keys()
    assert b"the key was refused" in ended.stderr
    for name, content in {**written, "stdout": ended.stdout, "stderr": ended.stderr}.items():
        assert KEY.encode() not in content, name


def test_protected_keys_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    protect("alpha-beta-gamma")
    protect("alpha-beta-gamma-delta")
    monkeypatch.setenv("SOME_API_KEY", "from the environment")
    text = "key=alpha-beta-gamma-delta, alpha-beta-gamma; from the environment; Bearer abcdef , sk-abcdefgh12345"
    assert redact(text) == "key=[secret], [secret]; [secret]; [secret] , [secret]"
    assert "alpha" not in str(CallError("server_error", "body: alpha-beta-gamma"))
