import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.files import atomic_path, atomic_writer, folder_lock


@contextmanager
def killed_while(code: str, folder: Path) -> Iterator[None]:
    """A process that is in the middle of `code` in the block, and is killed after it."""
    code = f"import os, time\nfrom data.base.files import atomic_writer, folder_lock\nos.chdir({str(folder)!r})\n{code}"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"in\n"
        yield
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_a_folder_is_held_by_one_process_at_a_time_and_free_when_it_is_killed(tmp_path: Path) -> None:
    with killed_while("with folder_lock('run'): print('in', flush=True); time.sleep(60)", tmp_path):
        words = "another process is working in this folder"
        with pytest.raises(InputError, match=words), folder_lock(tmp_path / "run"):
            raise AssertionError
    with folder_lock(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert (tmp_path / "run" / "file").exists()


def test_a_new_folder_in_which_nothing_was_done_goes_and_a_file_is_none(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file, expected a folder"), folder_lock(tmp_path / "file"):
        raise AssertionError


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_that_is_in_use(tmp_path: Path) -> None:
    writes = (
        "with atomic_writer('a') as file: file.write('x' * 9); file.flush(); print('in', flush=True); time.sleep(60)"
    )

    def leftovers(age_s: float = 3600) -> list[Path]:
        found = list(tmp_path.glob(".a.*.tmp"))
        for folder in found:
            os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - age_s))
        return found

    with killed_while(writes, tmp_path):
        leftovers()
        with atomic_writer(tmp_path / "a") as file:
            file.write("mine")
        assert len(leftovers()) == 1
    with atomic_path(tmp_path / "a") as new:
        new.write_text("mine too")
    assert not leftovers() and (tmp_path / "a").read_text() == "mine too"
