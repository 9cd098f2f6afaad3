"""Every negative that a synthesis run tried, the refused ones too, read from the run's store."""

from collections.abc import Iterable
from pathlib import Path

from data.base.errors import InputError
from data.base.files import read_json_object
from data.records import Row, row_content_id
from programs.modules.candidates import Synthesis
from programs.store import RunStore


def synthesis_folder(run: str | Path) -> Path | None:
    """The folder itself or its part `synthesis`, whichever holds the summary of a synthesis; None if neither does."""
    for folder in (Path(run), Path(run) / "synthesis"):
        if (folder / "summary.json").is_file():
            found = read_json_object(folder / "summary.json")
            if "verifier" in found and ("funnel" in found or "refused" in found):
                return folder
    return None


def read_syntheses(run: str | Path, rows: Iterable[Row]) -> dict[str, Synthesis]:
    """What the synthesis in this run folder did with each row, by query id; rows that it never saw are left out.

    Raises InputError when the folder holds no finished synthesis, or another process is working in it.
    """
    summary_file, store_file = Path(run) / "summary.json", Path(run) / "store.sqlite"
    program = read_json_object(summary_file).get("program")
    key = program.get("key") if isinstance(program, dict) else None
    if not isinstance(key, str):
        raise InputError("not the summary of a finished synthesis that this version knows", file=summary_file)
    if not store_file.is_file():
        raise InputError("is missing: refused candidates cannot be shown", file=store_file)
    with RunStore(store_file, program=key) as store:
        found = {row.query_id: store.load(row_content_id(row)) for row in rows}
    return {query_id: synthesis for query_id, synthesis in found.items() if synthesis is not None}
