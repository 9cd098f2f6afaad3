"""What every reader of judged data does: read texts by id and judgements, and check them in the same way."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from data.base.errors import BadRows, InputError
from data.base.fields import Line, OptionalText, Text, Whole
from data.base.text import clean_text, passage_text


@dataclass(frozen=True, slots=True)
class _Text:
    """A passage or a query; a few public sets hold passages that have a title and no text."""

    _id: Text
    title: OptionalText = None
    text: OptionalText = None


@dataclass(slots=True)
class Judged:
    """Collects one split of a task. Raises InputError at the first bad line, or counts it in `bad_rows`.

    `join` makes one text of a title and a text.
    """

    name: str
    bad_rows: BadRows
    join: Callable[[str | None, str], str] = passage_text

    def texts(self, lines: Iterable[Line], what: str, file: str) -> dict[str, str]:
        """The texts of {"_id", "text"} by id, a passage's with its "title" in front."""
        texts: dict[str, str] = {}
        for line in lines:
            with self.bad_rows.catch():
                found = line.read(_Text)
                title = found.title if what == "passage" else None
                text = clean_text(self.join(title, found.text or ""))
                if not text:
                    raise line.fault("is missing" if "text" not in line.value else "is empty", "text")
                if found._id in texts:
                    raise line.fault(f"the {what} id {found._id!r} occurs twice", "_id")
                texts[found._id] = text
        if not texts:
            raise InputError(f"holds no {what}", file=file)
        return texts

    def judgements(
        self, lines: Iterable[Line], passages: dict[str, str], queries: dict[str, str], file: str
    ) -> dict[str, dict[str, int]]:
        """The grades of {"query-id", "corpus-id", "score"}, at least one of them above 0.

        A skipped judgement of a passage that is not there is counted, and kept: see RetrievalSet.
        """
        qrels: dict[str, dict[str, int]] = {}
        for line in lines:
            with self.bad_rows.catch():
                query_id, passage_id = line.part(Text, "query-id"), line.part(Text, "corpus-id")
                grade = line.part(Whole, "score")
                if query_id not in queries:
                    raise line.fault(f"names the unknown query {query_id!r}", "query-id")
                before = qrels.setdefault(query_id, {}).get(passage_id, grade)
                qrels[query_id][passage_id] = grade
                if before != grade:
                    raise line.fault(f"is {grade}, and {before} in an earlier line on the same passage", "score")
                if passage_id not in passages:
                    raise line.fault(f"names the unknown passage {passage_id!r}", "corpus-id")
        if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
            raise InputError("has no positive judgement (a score above 0)", file=file)
        return qrels
