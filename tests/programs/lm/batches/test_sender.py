"""Waves against a fake provider of files and batches, through real litellm."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.base.errors import InputError
from programs.lm.batches.books import WaveBooks
from programs.lm.batches.lines import BatchAnswer, BatchRequest, batch_request, read_answers
from programs.lm.batches.sender import WaveSender
from programs.lm.batches.services import FolderBatches, ProviderBatches
from programs.lm.models import ModelSpec
from tests.fakes.fake_batches import BatchFault, FakeBatches


def requests(count: int) -> list[BatchRequest]:
    text = "[[ ## query ## ]]\nquestion {}\n\n[[ ## passage ## ]]\na passage"
    return [batch_request("openai/fake", [{"role": "user", "content": text.format(n)}], {}) for n in range(count)]


@pytest.fixture
def books(tmp_path: Path) -> Iterator[WaveBooks]:
    books = WaveBooks(tmp_path / "batches.sqlite")
    yield books
    books.close()


def service_of(server: FakeBatches) -> ProviderBatches:
    spec = ModelSpec(name="openai/fake", model="openai/fake", api_base=server.api_base, api_key=server.token)
    return ProviderBatches(spec, "generator")


async def completed(
    server: FakeBatches, books: WaveBooks, asked: list[BatchRequest], batch_size: int = 100
) -> tuple[list[BatchAnswer], WaveSender]:
    sender = WaveSender(
        service_of(server), books, target="openai/fake", batch_size=batch_size, first_look_s=0.02, nothing_moves_s=0.05
    )
    async with sender:
        return list(await asyncio.gather(*(sender.complete(request) for request in asked))), sender


def test_calls_become_waves_and_every_caller_gets_its_own_answer(books: WaveBooks) -> None:
    with FakeBatches() as server:
        asked = requests(25)
        answers, sender = asyncio.run(completed(server, books, asked, batch_size=10))
        assert [answer.id for answer in answers] == [request.id for request in asked]
        for number, answer in enumerate(answers):
            assert answer.body is not None
            assert f"question {number}" in answer.body["choices"][0]["message"]["content"]
        assert server.sent() == Counter(request.id for request in asked)
        assert sorted(len(batch.custom_ids) for batch in server.batches.values()) == [5, 10, 10]
        assert (sender.requests_back, sender.waves) == (25, [])


def test_a_file_is_as_long_as_its_bytes_in_any_script(books: WaveBooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("programs.lm.batches.sender._MOST_BYTES", 2000)
    texts = [f"[[ ## query ## ]]\n{number}{'燕麦' * 100}\n\n[[ ## passage ## ]]\np" for number in range(6)]
    asked = [batch_request("openai/fake", [{"role": "user", "content": text}], {}) for text in texts]
    with FakeBatches() as server:
        asyncio.run(completed(server, books, asked))
        assert [len(batch.custom_ids) for batch in server.batches.values()] == [2, 2, 2]
        assert max(len(content) for content in server.files.values()) <= 2000


@pytest.mark.parametrize("fault", ["reordered", "duplicated", "drop_after_create", "429_create"])
def test_what_can_be_mended_costs_nothing(books: WaveBooks, fault: BatchFault) -> None:
    with FakeBatches(batch_fault=lambda number: fault if number == 0 else None) as server:
        asked = requests(6)
        answers, _ = asyncio.run(completed(server, books, asked))
        assert [answer.id for answer in answers] == [request.id for request in asked]
        assert all(answer.body is not None for answer in answers)
        assert server.sent() == Counter(request.id for request in asked)


@pytest.mark.parametrize("fault", ["expired", "cancelled"])
def test_the_rest_of_a_half_answered_batch_is_named_as_lost(books: WaveBooks, fault: BatchFault) -> None:
    with FakeBatches(batch_fault=lambda number: fault) as server:
        answers, _ = asyncio.run(completed(server, books, requests(6)))
        assert [answer.lost for answer in answers] == [False] * 3 + [True] * 3


def test_an_error_line_is_that_requests_error(books: WaveBooks) -> None:
    with FakeBatches(batch_fault=lambda number: "error_lines") as server:
        answers, _ = asyncio.run(completed(server, books, requests(6)))
        assert [answer.status for answer in answers] == [500, 200, 200, 500, 200, 200]
        assert answers[0].message == "fake line fault" and not answers[0].lost


@pytest.mark.parametrize("fault", ["failed", "too_large"])
def test_a_refused_file_ends_the_run_with_the_providers_words(books: WaveBooks, fault: BatchFault) -> None:
    with FakeBatches(batch_fault=lambda number: fault) as server, pytest.raises(InputError, match=r"fake fault|large"):
        asyncio.run(completed(server, books, requests(3)))


def test_a_killed_run_finds_its_batch_by_our_mark(books: WaveBooks) -> None:
    asked = requests(4)

    async def killed_right_after_create(server: FakeBatches) -> None:
        service = service_of(server)
        created = asyncio.Event()
        real = service.send

        async def send(*args: object) -> str:
            await real(*args)  # type: ignore[arg-type]
            created.set()
            await asyncio.sleep(60)
            raise AssertionError

        service.send = send  # type: ignore[method-assign,assignment]
        sender = WaveSender(service, books, target="openai/fake", batch_size=10, nothing_moves_s=0.01)
        async with sender:
            waiting = [asyncio.create_task(sender.complete(request)) for request in asked]
            await created.wait()
            for task in waiting:
                task.cancel()

    with FakeBatches() as server:
        asyncio.run(killed_right_after_create(server))
        assert [wave.batch_id for wave in books.out()] == [None]
        answers, _ = asyncio.run(completed(server, books, asked))
        assert all(answer.body is not None for answer in answers)
        assert len(server.batches) == 1
        # What came back is kept until the run has stored it, and asked for no second time.
        again, _ = asyncio.run(completed(server, books, asked))
        assert again == answers and len(server.batches) == 1


def test_answers_to_requests_that_were_never_made_are_refused(books: WaveBooks, tmp_path: Path) -> None:
    folder = FolderBatches(tmp_path)

    async def run() -> None:
        async with WaveSender(folder, books, target="m", batch_size=1, first_look_s=0.02) as sender:
            waiting = asyncio.create_task(sender.complete(requests(1)[0]))
            while not (made := list((tmp_path / "requests").glob("*.jsonl"))):
                await asyncio.sleep(0.01)
            body = {"choices": [{"message": {"content": "x"}}]}
            foreign = {"custom_id": "foreign", "response": {"status_code": 200, "body": body}}
            (tmp_path / "responses" / made[0].name).write_text(json.dumps(foreign) + "\n", encoding="utf-8")
            await waiting

    with pytest.raises(InputError, match="not this run's, such as 'foreign'"):
        asyncio.run(run())


def test_answers_are_read_also_when_what_was_asked_has_been_cleared_away(tmp_path: Path) -> None:
    folder, response = FolderBatches(tmp_path), tmp_path / "responses" / "mark.jsonl"
    asyncio.run(folder.send(requests(1), "mark"))
    response.write_text(json.dumps({"custom_id": "a", "response": {"body": {"choices": []}}}) + "\n")
    assert asyncio.run(folder.state("mark")).status == "ended"
    (tmp_path / "requests" / "mark.jsonl").unlink()
    # There may be more to come.
    assert asyncio.run(folder.state("mark")).status == "running"
    os.utime(response, (0, 0))
    state = asyncio.run(folder.state("mark"))
    assert [answer.id for answer in asyncio.run(folder.answers(state))] == ["a"]


def test_a_last_line_that_is_cut_off_is_no_answer_yet_and_a_bad_line_before_it_is_named() -> None:
    whole = json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": {"choices": []}}})
    assert [answer.id for answer in read_answers(f"{whole}\n{whole[:20]}", file="f")] == ["a"]
    with pytest.raises(InputError, match="f:1: is no line"):
        read_answers(f"{whole[:20]}\n{whole}\n", file="f")
