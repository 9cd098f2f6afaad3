"""Everything that reads what others wrote, as functions of bytes: bad bytes end in InputError and in nothing else.

`python -m tests.chaos fuzz` feeds them for minutes; what once broke one of them lies in tests/fuzz/corpus for good.
"""

import asyncio
import contextlib
import hashlib
import io
import json
import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data.base.cli import run_command
from data.base.errors import InputError
from data.formats.convert import read_format, write_format
from data.formats.registry import FORMATS
from data.formats.sidecar import sidecar_path
from data.readers.beir import read_beir
from data.readers.pairs import read_pairs
from data.records import Row, row_from_dict
from data.row_files import read_rows, write_rows
from programs.lm.servers.recorded import RecordedServer, read_inputs, render_answer
from programs.modules.saved import MANIFEST_FILE, STATE_FILE, load_program, program_state, save_program
from programs.modules.synthesizer import Synthesizer
from programs.optimize.config import OptimizeConfig
from programs.profiles.profile import load_profile
from programs.synthesis.config import SynthesizeConfig

Target = Callable[[bytes, Path], None]
# Separates the parts of an input that is several files, or the words of a command line.
BREAK = b"\n=====\n"


def rows(raw: bytes, folder: Path) -> None:
    """Canonical rows: what could be read can be written, and read again as it was."""
    path = folder / "rows.jsonl"
    path.write_bytes(raw)
    found = list(read_rows(path))
    write_rows(path, found)
    assert list(read_rows(path)) == found
    if found:
        write_format(folder / "rows.parquet", "rows", found)
        assert list(read_format(folder / "rows.parquet", "rows")) == found


def beir(raw: bytes, folder: Path) -> None:
    """A BEIR folder of three files."""
    (folder / "qrels").mkdir(exist_ok=True)
    parts = [*raw.split(BREAK), b"", b""][:3]
    for name, part in zip(("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"), parts, strict=True):
        (folder / name).write_bytes(part)
    read_beir(folder)


def pairs(raw: bytes, folder: Path) -> None:
    """Pairs of a query and its positives."""
    path = folder / "pairs.jsonl"
    path.write_bytes(raw)
    read_pairs(path)


def formats(raw: bytes, folder: Path) -> None:
    """Every other trainer's format, with and without a sidecar."""
    content, _, sidecar = raw.partition(BREAK)
    path = folder / "train.jsonl"
    path.write_bytes(content)
    sidecar_path(path).unlink(missing_ok=True)
    for with_sidecar in (False, True) if sidecar else (False,):
        if with_sidecar:
            sidecar_path(path).write_bytes(sidecar)
        for name in FORMATS:
            with contextlib.suppress(InputError):
                _use(read_format(path, name))


def parquet(raw: bytes, folder: Path) -> None:
    """A Parquet file of rows."""
    path = folder / "rows.parquet"
    path.write_bytes(raw)
    _use(read_format(path, "rows"))


def profile(raw: bytes, folder: Path) -> None:
    """A corpus profile."""
    path = folder / "profile.toml"
    path.write_bytes(raw)
    load_profile(str(path))


def program(raw: bytes, folder: Path) -> None:
    """A compiled program: the manifest as given, and the state with a manifest that vouches for it."""
    manifest, _, state = raw.partition(BREAK)
    synthesizer = Synthesizer()
    save_program(synthesizer, folder, {})
    honest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / STATE_FILE).write_bytes(state)
    (folder / MANIFEST_FILE).write_text(json.dumps(honest | {"state_sha256": hashlib.sha256(state).hexdigest()}))
    with contextlib.suppress(InputError):
        load_program(folder, synthesizer)
        program_state(synthesizer)
    (folder / MANIFEST_FILE).write_bytes(manifest)
    load_program(folder, synthesizer)


class _Request:
    """As much of an HTTP request as the server looks at."""

    def __init__(self, body: bytes, token: str):
        self.headers = {"Authorization": f"Bearer {token}"}
        self._body = body

    async def read(self) -> bytes:
        return self._body


def recorded_server(raw: bytes, folder: Path) -> None:
    """A request to the recorded server, and its text as a prompt of each layout."""
    server = _recorded()
    requests = [raw]
    text = raw.decode("utf-8", "surrogateescape")
    requests.append(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    for body in requests:
        request: Any = _Request(body, server.token)
        response: Any = asyncio.run(server._completions(request))
        assert response.status in (200, 400, 422), response.status
        json.loads(response.body)
    inputs, layout = read_inputs(text)
    render_answer(inputs, layout)


def command_line(raw: bytes, folder: Path) -> None:
    """The words of a command line, for two configs."""
    words = [word.decode("utf-8", "replace") for word in raw.split(BREAK)]
    seen: list[Any] = []
    commands = {"synthesize": (SynthesizeConfig, seen.append), "optimize": (OptimizeConfig, seen.append)}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = run_command(commands, words)
        except SystemExit as end:  # --help
            code = int(end.code or 0)
    assert code in (0, 2), code


def _use(values: Iterable[Row]) -> None:
    for value in values:
        assert value.query


_SERVERS: list[RecordedServer] = []


def _recorded() -> RecordedServer:
    if not _SERVERS:
        _SERVERS.append(RecordedServer())
    return _SERVERS[0]


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (rows, beir, pairs, formats, parquet, profile, program, recorded_server, command_line)
}


def feed(name: str, raw: bytes) -> None:
    """Run one target; raises whatever is not an InputError."""
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.suppress(InputError):
            TARGETS[name](raw, Path(folder))
    finally:
        logging.disable(logging.NOTSET)


def seeds(name: str) -> list[bytes]:
    """Good inputs of a target, to start from."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as text:
        folder = Path(text)
        made = [_rich_row(number) for number in range(2)]
        if name == "rows":
            write_rows(folder / "rows.jsonl", made)
            return [(folder / "rows.jsonl").read_bytes()]
        if name == "beir":
            corpus = b'{"_id": "d1", "title": "t", "text": "x", "metadata": {"family": "f"}}\n'
            return [
                BREAK.join([corpus, b'{"_id": "q1", "text": "what"}\n', b"query-id\tcorpus-id\tscore\nq1\td1\t1\n"])
            ]
        if name == "pairs":
            return [b'{"query": "a", "positive": "b"}\n{"question": "c", "pos": ["d", {"title": "t", "text": "e"}]}\n']
        if name == "formats":
            found = []
            for each in FORMATS:
                path = folder / f"{each}.jsonl"
                write_format(path, each, made, 1)
                sidecar = sidecar_path(path)
                found.append(path.read_bytes() + (BREAK + sidecar.read_bytes() if sidecar.exists() else b""))
            return found
        if name == "parquet":
            write_format(folder / "rows.parquet", "rows", made)
            return [(folder / "rows.parquet").read_bytes()]
        if name == "profile":
            return [b'relevance = "it says so"\nstyle = ["one", "two"]\n']
        if name == "program":
            save_program(Synthesizer(), folder, {})
            return [(folder / MANIFEST_FILE).read_bytes() + BREAK + (folder / STATE_FILE).read_bytes()]
        if name == "recorded_server":
            prompt = '[[ ## query ## ]]\na\n\n[[ ## passage ## ]]\nb\n\n[[ ## violations ## ]]\n[{"target": "1. x"}]'
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
            return [json.dumps(body).encode(), prompt.encode(), b"<query>\na\n</query>\n\nRespond with a JSON object"]
        return [BREAK.join([b"synthesize", b"rows=a.jsonl", b"--budget-usd", b"3", b"concurrency=4", b"batched=true"])]


def _rich_row(number: int) -> Row:
    requirement = {"id": 1, "kind": "entity", "statement": "s", "evidence": "e", "critical": True}
    generated = {
        "text": f"g{number}",
        "source": "generated",
        "requirement": requirement,
        "disruption": "entity_shift",
        "verdict": {"satisfied": [False], "answers_query": False, "reason": "r"},
        "generator": "m",
        "program": "p",
    }
    return row_from_dict(
        {
            "query_id": f"q{number}",
            "query": f"what {number}",
            "positives": [{"id": "p", "text": f"yes {number}"}],
            "requirements": [requirement],
            "negatives": [{"text": f"m{number}", "source": "mined", "score": 0.5, "id": "i"}, generated],
        }
    )
