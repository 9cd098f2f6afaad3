"""Writing cassettes: nothing is lost or mixed up when runs are killed, go on, repeat themselves or share a file."""

import gzip
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.base.errors import InputError
from programs.lm.servers.cassette import Recorder, cassette_line, read_cassette, recorder
from programs.synthesis.dataset import DatasetConfig, write_dataset
from tests.fakes.fake_model import FakeModel
from tests.programs.lm.servers.test_cassette import recorded, replayed, rows_text, synthesized

Rows = Callable[[int], Path]


def line(query: str, answer: str = "yes") -> str:
    return cassette_line(
        signature="Ask", messages=[{"role": "user", "content": f"[[ ## query ## ]]\n{query}"}],
        outputs={"answer": answer}, answer="", finish_reason="stop", model="m", prompt_tokens=3, completion_tokens=2,
    )  # fmt: skip


def answers(tape: Path) -> list[str]:
    return [value["outputs"]["answer"] for value in read_cassette(tape)]


def test_the_order_of_several_answers_is_kept(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    written = Recorder(tape)
    for answer in "AAB":
        written.add(line("q", answer))
    assert answers(tape) == ["A", "A", "B"]
    written.add(line("q", "B"))
    # The last one is replayed for good: its repeats are left out, until another answer follows.
    assert answers(tape) == ["A", "A", "B"]
    written.add(line("other", "C"))
    assert answers(tape) == ["A", "A", "B", "C"]
    written.add(line("q", "A"))
    assert answers(tape) == ["A", "A", "B", "C", "B", "A"] and written.num_calls == 6


def test_what_is_missing_is_added_once(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    Recorder(tape).add(line("q", "A"))
    for _ in range(2):
        Recorder(tape).complete(line("q", answer) for answer in "AABA")
        assert answers(tape) == ["A", "A", "B", "A"]


@pytest.mark.parametrize("kept", [1, 9, 14, 60])
def test_a_line_may_be_cut_off_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int) -> None:
    tape = tmp_path / "tape.jsonl"
    tape.write_text(line("one") + "\n" + line("two")[:kept])
    with caplog.at_level(logging.WARNING):
        assert len(read_cassette(tape)) == 1
    assert f"{tape}:2: the last line was cut off" in caplog.text
    again = Recorder(tape)
    again.complete([line("one")])
    again.add(line("two"))
    assert tape.read_text() == line("one") + "\n" + line("two") + "\n"


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    tape.write_text(line("one"))
    assert len(read_cassette(tape)) == 1
    Recorder(tape).add(line("two"))
    assert tape.read_text() == line("one") + "\n" + line("two") + "\n"


def test_a_packed_cassette_is_read_but_not_added_to(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl.gz"
    packed = gzip.compress(b"\n".join(line(str(n)).encode() for n in range(50)))
    tape.write_bytes(packed)
    assert len(read_cassette(tape)) == 50
    with pytest.raises(InputError, match="is packed"):
        Recorder(tape)
    assert tape.read_bytes() == packed
    tape.write_bytes(packed[:-10])
    with pytest.raises(InputError, match="cannot read: Compressed file ended"):
        read_cassette(tape)


@pytest.mark.parametrize(
    ("whole", "broken"),
    [('"prompt_tokens": 3', '"prompt_tokens": -3'), ('{"answer": "yes"}, "answer": null', '[1], "answer": ""')],
)
def test_a_line_that_could_not_be_replayed_is_refused(tmp_path: Path, whole: str, broken: str) -> None:
    tape = tmp_path / "tape.jsonl"
    tape.write_text(line("one").replace(whole, broken) + "\n")
    with pytest.raises(InputError, match=":1: expected a call"):
        read_cassette(tape)


def test_recorders_of_one_file_lose_none_of_each_others_lines(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    first, done = Recorder(tape), threading.Event()

    def open_again() -> None:
        while not done.is_set():
            Recorder(tape).close()

    opening = threading.Thread(target=open_again)
    opening.start()
    for number in range(300):
        first.add(line(str(number), "x" * 20_000))
    done.set()
    opening.join()
    assert len(read_cassette(tape)) == 300


def test_a_file_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    recorder(tape).add(line("one"))
    tape.unlink()
    recorder(tape).add(line("two"))
    assert tape.read_text() == line("two") + "\n"


def test_a_disk_that_takes_a_part_of_a_line_keeps_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = tmp_path / "tape.jsonl"
    written = Recorder(tape)
    written.add(line("one"))
    before, write = tape.read_bytes(), os.write

    def fills_up(file: int, content: bytes) -> int:
        monkeypatch.setattr(os, "write", no_space)
        return write(file, content[:20])

    def no_space(file: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(InputError, match="cannot be written"):
        written.add(line("two"))
    assert tape.read_bytes() == before


def test_what_is_replayed_is_not_recorded_into_itself(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_rows(2)
    tape, _, _ = recorded(tmp_path, rows, monkeypatch)
    before = tape.read_bytes()
    with pytest.raises(InputError, match="is what lm replays: record into another file"):
        replayed(tmp_path, rows, tape, record=tape)
    assert tape.read_bytes() == before


def test_a_run_that_is_recorded_late_is_recorded_whole(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, tape = made_rows(4), tmp_path / "tape.jsonl"
    with FakeModel(fault={1: "malformed"}.get) as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        synthesized(rows, tmp_path / "live", server, adapter="json", max_rows=2)
        synthesized(rows, tmp_path / "live", server, adapter="json", record=tape)
        assert len(read_cassette(tape)) == len(server.log)
    again = replayed(tmp_path, rows, tape)
    assert rows_text(tmp_path / "live", "openai/fake") == rows_text(tmp_path / "again", "recorded:tape.jsonl")
    assert again["usage"]["tokens"] == sum(one.prompt_tokens + one.completion_tokens for one in server.log)


def test_of_a_folder_that_was_made_anew_the_last_answers_are_exported(
    tmp_path: Path, made_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(number: int, completion: dict[str, Any]) -> None:
        message = completion["choices"][0]["message"]
        message["content"] = message["content"].replace("draft", f"draft of {completion['model']}")

    rows, tape = made_rows(3), tmp_path / "tape.jsonl"
    with FakeModel(alter=alter) as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        for lm in ("openai/one", "openai/two"):
            synthesized(rows, tmp_path / "live", server, adapter="json", lm=lm, again=True)
    write_dataset(DatasetConfig(run=tmp_path / "live", out=tmp_path / "set", licence="cc0-1.0", cassette=tape))
    replayed(tmp_path, rows, tape)
    text = rows_text(tmp_path / "again", "recorded:tape.jsonl")
    assert text == rows_text(tmp_path / "live", "openai/two") and "draft of two" in text
