"""A planted key is in nothing that a run writes: no file, no log line, no error, also when the provider repeats it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from programs.lm.faults import CallError, redact, register_secret
from tests.fakes.fake_process import ROOT, Behaviour, fake_process

# Like no provider's keys, in a variable that does not sound like one: nothing but the exact value can find it.
KEY = "Planted/Geheim+42=xyzzy"
VARIABLE = "MY_ACCESS"


@pytest.mark.slow
def test_a_planted_key_is_nowhere(made_rows: Callable[[int], Path], tmp_path: Path) -> None:
    faults = (None, "500", "malformed", None, "429", "drop", "not_json", "cut_body", None, "503", "wrong_schema")
    rows, out, log = made_rows(2), tmp_path / "out", tmp_path / "server.jsonl"
    flags = ["synthesize", f"rows={rows}", f"out={out}", "lm=openai/fake", "adapter=chat", f"api_key_env={VARIABLE}"]
    # The last fault ends the run, with the provider's words in the error; the same command then goes on to the end.
    with fake_process(log, Behaviour(faults=(*faults, "401"), echo_key=True, key=KEY)) as server:
        refused = _command("programs", *flags, f"api_base={server.api_base}", code=2)
        assert {served.fault for served in server.log()} == {*faults, "401"}
    assert b"the key was refused" in refused
    with fake_process(log, Behaviour(faults=faults, echo_key=True, key=KEY)) as server:
        finished = _command("programs", *flags, f"api_base={server.api_base}", code=0)
    reported = _command("evals", "report", f"run={out}", code=0)
    written = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {"store.sqlite", "config.json", "rows.jsonl", "summary.json", "report.html"} <= written.keys()
    for name, content in {**written, "refused": refused, "finished": finished, "reported": reported}.items():
        assert KEY.encode() not in content, name


def _command(package: str, *words: str, code: int) -> bytes:
    """What the command writes to stdout and stderr, the libraries' own logs at their most talkative."""
    ended = subprocess.run(
        [sys.executable, "-m", package, *words],
        cwd=ROOT,
        env=os.environ | {VARIABLE: KEY, "LITELLM_LOG": "DEBUG", "OPENAI_LOG": "debug"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert ended.returncode == code, ended.stdout.decode()[-2000:]
    return ended.stdout


def test_register_secreted_keys_are_taken_out_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    register_secret("alpha-beta-gamma")
    register_secret("alpha-beta-gamma-delta")
    monkeypatch.setenv("SOME_API_KEY", "from the environment")
    text = "key=alpha-beta-gamma-delta, alpha-beta-gamma; from the environment; Bearer abcdef , sk-abcdefgh12345"
    assert redact(text) == "key=[secret], [secret]; [secret]; [secret] , [secret]"
    assert "alpha" not in str(CallError("server_error", "body: alpha-beta-gamma"))
