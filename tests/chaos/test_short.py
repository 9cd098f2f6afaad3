"""The chaos scenarios in short: `just chaos` runs them at full length."""

from pathlib import Path

import pytest

from tests.chaos import answers, batches, damaged, disks, inputs, kills, leftovers, owner, provider_faults


@pytest.mark.slow
def test_a_mixture_of_all_faults(tmp_path: Path) -> None:
    figures = provider_faults.provider_faults(tmp_path, queries=40, share=0.4)
    assert figures["faults"] > 30


@pytest.mark.slow
def test_batches_that_are_killed(tmp_path: Path) -> None:
    assert batches.batch_kills(tmp_path, kills=2, queries=6)["requests_sent_twice"] == 0


@pytest.mark.slow
def test_a_budget_holds_over_kills(tmp_path: Path) -> None:
    figures = kills.budget_under_kills(tmp_path, kills=2, budget=20_000, at_once=4)
    assert figures["kills"] == 2
    assert figures["outcomes"]["killed"] > 0


@pytest.mark.slow
def test_a_second_run_on_the_folder(tmp_path: Path) -> None:
    assert "another process" in kills.two_at_once(tmp_path)["second_run"]


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    figures = disks.full_disk(tmp_path, queries=25)
    assert figures["calls_for_finished_queries"] == 0
    assert 0 < figures["finished_before"] < 25


@pytest.mark.slow
def test_a_read_only_folder(tmp_path: Path) -> None:
    if not disks.may_mount(tmp_path):
        pytest.skip("only root may mount the small disk that this needs")
    first, second = disks.read_only_folder(tmp_path)["lines"]
    assert "read-only" in first.lower()
    assert "Read-only" in second


def test_no_command_writes_over_what_is_not_its_own(tmp_path: Path) -> None:
    figures = owner.owner(tmp_path)
    assert figures["held"] == figures["tried"] == 108


@pytest.mark.parametrize("command", ["convert", "probe"])
def test_every_kind_of_bad_value(command: str, tmp_path: Path) -> None:
    assert inputs.inputs(tmp_path, only=command)["tried"] > 30


@pytest.mark.slow
def test_misbehaviours_of_a_server(tmp_path: Path) -> None:
    figures = answers.answers(tmp_path, every=29)
    assert figures["tried"] == figures["held"] > 100
    assert figures["tokens_booked"] >= figures["tokens_by_the_server"] > 0


@pytest.mark.slow
def test_damaged_files_of_every_command(tmp_path: Path) -> None:
    figures = damaged.damaged(tmp_path, every=101)
    assert figures["tried"] > 20
    assert not figures["not"]


@pytest.mark.slow
def test_commands_that_are_killed_leave_nothing(tmp_path: Path) -> None:
    figures = leftovers.leftovers(tmp_path, kills=1, only=("mine", "dataset"))["by_command"]
    assert {name: found["kills"] for name, found in figures.items()} == {"mine": 1, "dataset": 1}
