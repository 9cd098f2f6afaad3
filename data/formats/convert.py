"""Files of training rows from one format into another, streamed; what is lost on the way is said or kept beside."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from data.base.errors import STRICT, BadRows, InputError
from data.base.fields import Line
from data.base.files import atomic_writer
from data.formats.format import Format
from data.formats.registry import FORMATS
from data.formats.sidecar import Sidecar, SidecarLine, sidecar_path, write_sidecar_line
from data.records import Row
from data.row_files import read_objects, write_objects, write_parquet_objects


@dataclass(slots=True)
class ConvertReport:
    """Counts of one conversion; `dropped` counts rows by the reason that the format could not hold them."""

    rows: int = 0
    lines: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    negatives: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def summary(self, target: Format, num_negatives: int, sidecar: Path | None) -> str:
        """A few lines: what came over, what did not, and where the rest is."""
        text = [f"{self.rows} rows as {self.lines} lines of {target.name}; negatives: {_counts(self.negatives)}"]
        text += [f"  {count} rows dropped: {reason}" for reason, count in self.dropped.items()]
        if self.left_out:
            text.append(f"  left out, since every line has the same number: {_counts(self.left_out)}")
        if advice := target.advice(num_negatives):
            text.append(f"  {advice}")
        if sidecar is not None:
            text.append(f"  {target.name} carries {target.carries}; ids, origins and verdicts are in {sidecar}")
        return "\n".join(text)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def read_format(
    path: str | Path, name: str, bad_rows: BadRows = STRICT, unknown: Counter[str] | None = None
) -> Iterator[Row]:
    """Stream the rows of a file in a known format (.jsonl, or .parquet for canonical rows).

    A sidecar beside a file that cannot carry everything restores ids and origins; `unknown` counts by origin the
    negatives that it does not know, which keep the origin that the format gives them. Raises InputError (file, line,
    field) at the first bad line, or counts it in `bad_rows`; with a sidecar, which must stay in step, a bad line always
    ends the reading.
    """
    path, known = Path(path), format_named(name)
    # Beside canonical rows, which say everything themselves, a sidecar can only be of an earlier file of that name.
    sidecar = Sidecar(path) if not known.lossless and sidecar_path(path).is_file() else None
    if sidecar is not None:
        bad_rows = STRICT
    for lines, saved in _groups(read_objects(path, bad_rows), known, sidecar, bad_rows):
        with bad_rows.catch():
            row = known.decode(lines)
            if saved is not None:
                row, num_unknown = saved.restore(row)
                if unknown is not None:
                    unknown.update(negative.source for negative in row.negatives[len(row.negatives) - num_unknown :])
            yield row


def _groups(
    lines: Iterator[Line], known: Format, sidecar: Sidecar | None, bad_rows: BadRows
) -> Iterator[tuple[list[Line], SidecarLine | None]]:
    """The lines that make one row: as many as the sidecar says, or neighbours that belong together."""
    group: list[Line] = []
    saved = None
    for line in lines:
        if not isinstance(line.value, dict):
            bad_rows.add(line.fault(f"expected a JSON object, got {type(line.value).__name__}"))
            continue
        if group and not (len(group) < saved.num_lines if saved else known.same_row(group[0].value, line.value)):
            yield group, saved
            group = []
        if not group and sidecar is not None:
            saved = sidecar.next_line()
        group.append(line)
    if group:
        yield group, saved


def write_format(path: str | Path, name: str, rows: Iterable[Row], num_negatives: int | None = None) -> ConvertReport:
    """Write rows in a format, atomically, with a sidecar where the format cannot carry everything.

    `num_negatives` is for formats with a fixed number of negatives a line (swift: mined ones; st-tuples: all); rows
    with fewer are dropped and counted. Raises InputError when such a format gets none or nothing could be written.
    """
    path, known = Path(path), format_named(name)
    if known.fixed and num_negatives is None:
        raise InputError(f"{name} has the same number of negatives in every line: say how many", field="num-negatives")
    if path.suffix == ".parquet" and not known.lossless:
        raise InputError(f"only canonical rows go into Parquet; write {name} as .jsonl", file=path)
    report = ConvertReport()
    with ExitStack() as stack:
        sidecar = None if known.lossless else stack.enter_context(atomic_writer(sidecar_path(path)))
        write = write_parquet_objects if path.suffix == ".parquet" else write_objects
        write(path, _lines(path, known, rows, report, sidecar, num_negatives or 0))
    if known.lossless:
        sidecar_path(path).unlink(missing_ok=True)
    return report


def _lines(
    path: Path, known: Format, rows: Iterable[Row], report: ConvertReport, sidecar: IO[str] | None, num_negatives: int
) -> Iterator[dict[str, Any]]:
    for row in rows:
        negatives = known.choose(row, num_negatives)
        if negatives is None:
            few = f"fewer than {num_negatives}" if known.fixed else "no"
            report.dropped[f"{few} {'mined ' if known.fixed == ('mined',) else ''}negatives"] += 1
            continue
        lines = known.encode(row, negatives)
        report.rows += 1
        report.lines += len(lines)
        report.negatives.update(negative.source for negative in negatives)
        report.left_out.update(Counter(n.source for n in row.negatives) - Counter(n.source for n in negatives))
        if sidecar is not None:
            write_sidecar_line(sidecar, row, num_lines=len(lines))
        yield from lines
    if not report.rows:
        # Raised while the files are being written, so that none of them takes its name.
        reasons = "; ".join(f"{count} dropped: {reason}" for reason, count in report.dropped.items())
        raise InputError(f"no row could be written as {known.name}" + (f" ({reasons})" if reasons else ""), file=path)


def fewest_negatives(rows: Iterable[Row], name: str) -> int:
    """The largest number of negatives a line that drops no row: for formats with a fixed number."""
    fixed = format_named(name).fixed
    return min((sum(negative.source in fixed for negative in row.negatives) for row in rows), default=0)


def format_named(name: str) -> Format:
    """Look up a format. Raises InputError that lists those there are."""
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]
