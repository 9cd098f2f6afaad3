"""Fixtures that more than one room's tests use."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import programs  # noqa: F401 - before litellm, which would fetch a price list when it is imported without our settings
from data.readers.demo import demo_items
from data.row_files import write_rows
from tests.fakes.made_rows import made_row
from tests.trainer.conftest import tiny_bert, tiny_qwen

__all__ = ["tiny_bert", "tiny_qwen"]


@pytest.fixture(scope="session")
def demo_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 120 demo queries with their positives and nothing else."""
    path = tmp_path_factory.mktemp("demo") / "rows.jsonl"
    write_rows(path, (replace(item.row, negatives=(), requirements=()) for item in demo_items()))
    return path


@pytest.fixture
def made_rows(tmp_path: Path) -> Callable[[int], Path]:
    """A file of so many made-up rows, each with one mined negative."""

    def write(count: int) -> Path:
        path = tmp_path / f"rows{count}.jsonl"
        write_rows(path, (made_row(number) for number in range(count)))
        return path

    return write


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests with a real local model take minutes and a download: they run only when they are asked for."""
    if "local" in str(config.option.markexpr):
        return
    for item in items:
        if item.get_closest_marker("local"):
            item.add_marker(pytest.mark.skip(reason="needs a local model: just test-local"))
