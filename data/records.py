"""The training row: one query, its positives, and a ragged list of negatives that each carry their own origin."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NoReturn, get_args

from data.base.errors import InputError
from data.base.text import clean_text, content_id

Source = Literal["mined", "generated"]
Disruption = Literal[
    "entity_shift", "attribute_shift", "constraint_violation", "relation_break", "intent_drift", "adjacent_stage"
]
RequirementKind = Literal["entity", "attribute", "relation", "constraint", "intent"]
SOURCES: tuple[str, ...] = get_args(Source)
DISRUPTIONS: tuple[str, ...] = get_args(Disruption)
REQUIREMENT_KINDS: tuple[str, ...] = get_args(RequirementKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition that a passage must meet to be relevant; `id` is its 1-based position in the extracted list."""

    id: int
    kind: str
    statement: str
    evidence: str = ""
    critical: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the blind verifier said: `satisfied[i]` belongs to the requirement with id i + 1."""

    satisfied: tuple[bool, ...]
    answers_query: bool
    reason: str

    @property
    def grade(self) -> float | None:
        """Share of the row's requirements that are satisfied, 0 to 1; 1 where the passage answers the query.

        None when no requirement was judged.
        """
        if self.answers_query:
            return 1.0
        return sum(self.satisfied) / len(self.satisfied) if self.satisfied else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A passage as the encoder sees it (title and text joined by a newline), with what a verifier said of it if any."""

    id: str
    text: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Negative:
    """A passage that does not answer the query, with its origin.

    `score` is the retriever's similarity at mining time; `requirement` is the violated one; `generator` names the
    model and `program` the compiled program that wrote it (None for mined negatives). `grade` is how relevant the
    passage is all the same, 0 to 1, where the data says so itself (None: as the verdict says).
    """

    text: str
    source: Source
    id: str | None = None
    score: float | None = None
    requirement: Requirement | None = None
    disruption: str | None = None
    verdict: Verdict | None = None
    generator: str | None = None
    program: str | None = None
    grade: float | None = None

    @property
    def relevance(self) -> float | None:
        """The grade that the data gives, else the verdict's; None where the passage was not judged."""
        if self.grade is not None:
            return self.grade
        return None if self.verdict is None else self.verdict.grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One query with one or more positives and any number of negatives."""

    query_id: str
    query: str
    positives: tuple[Passage, ...]
    negatives: tuple[Negative, ...] = ()
    requirements: tuple[Requirement, ...] = field(default=())

    def of_source(self, source: Source) -> tuple[Negative, ...]:
        """The negatives of one origin, in order."""
        return tuple(negative for negative in self.negatives if negative.source == source)


def row_content_id(row: Row) -> str:
    """A content hash of the query and its positives: the key under which work on this row is stored."""
    return content_id(row.query, *(passage.text for passage in row.positives))


def row_to_dict(row: Row) -> dict[str, Any]:
    """The JSON form of a row; fields that hold nothing are left out."""
    return dict(_without_empty(asdict(row))) | {"negatives": [_without_empty(asdict(n)) for n in row.negatives]}


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_empty(item) for key, item in value.items() if item is not None and item != ()}
    if isinstance(value, (list, tuple)):
        return [_without_empty(item) for item in value]
    return value


def row_from_dict(value: Any, *, file: str | None = None, line: int | None = None) -> Row:
    """Check one decoded JSON row and build it. Raises InputError that names file, line and field."""
    reader = FieldReader(value, file=file, line=line)
    query = reader.text("query")
    positives = tuple(
        Passage(
            id=item.text("id", default=None) or content_id(item.text("text")),
            text=item.text("text"),
            verdict=verdict_from(item),
        )
        for item in reader.objects("positives")
    )
    if not positives:
        reader.fail("positives", "expected at least one positive")
    query_id = reader.text("query_id", default=None) or content_id(query)
    return Row(
        query_id=query_id,
        query=query,
        positives=positives,
        negatives=tuple(negative_from(item) for item in reader.objects("negatives", default=())),
        requirements=tuple(requirement_from(item) for item in reader.objects("requirements", default=())),
    )


def negative_from(item: "FieldReader") -> Negative:
    """One negative of a row. Raises InputError."""
    source = item.text("source")
    if source not in SOURCES:
        item.fail("source", f"expected one of {', '.join(SOURCES)}, got {source!r}")
    requirement, grade = item.object("requirement"), item.number("grade", default=None)
    if grade is not None and not 0 <= grade <= 1:
        item.fail("grade", f"expected a share from 0 to 1, got {grade}")
    return Negative(
        text=item.text("text"),
        source=source,
        id=item.text("id", default=None),
        score=item.number("score", default=None),
        requirement=None if requirement is None else requirement_from(requirement),
        disruption=item.text("disruption", default=None),
        verdict=verdict_from(item),
        generator=item.text("generator", default=None),
        program=item.text("program", default=None),
        grade=grade,
    )


_LARGEST_POSITION = 10_000


def requirement_from(item: "FieldReader") -> Requirement:
    """One requirement of a row. Raises InputError."""
    number = item.number("id")
    if number is None or number != int(number) or not 1 <= number <= _LARGEST_POSITION:
        item.fail("id", "expected the requirement's 1-based position")
    return Requirement(
        id=int(number),
        kind=item.text("kind"),
        statement=item.text("statement"),
        evidence=item.text("evidence", default=None) or "",
        critical=item.boolean("critical", default=True),
    )


def verdict_from(passage: "FieldReader") -> Verdict | None:
    """The verdict of a passage, None where it has none. Raises InputError."""
    item = passage.object("verdict")
    if item is None:
        return None
    satisfied = item.value.get("satisfied", [])
    if not isinstance(satisfied, list) or not all(isinstance(flag, bool) for flag in satisfied):
        item.fail("satisfied", "expected a list of true and false")
    return Verdict(
        satisfied=tuple(satisfied),
        answers_query=item.boolean("answers_query"),
        reason=item.text("reason", default=None) or "",
    )


_MISSING: Any = object()
# Scores, positions and counts are far below; every format holds whole numbers up to here exactly.
_LARGEST_NUMBER = 2**53


class FieldReader:
    """Reads typed fields of one decoded JSON object; a fault is an InputError with file, line and field path."""

    def __init__(self, value: Any, *, file: str | None = None, line: int | None = None, path: str = ""):
        self.file, self.line, self._path = file, line, path
        if not isinstance(value, Mapping):
            raise InputError(
                f"expected a JSON object, got {type(value).__name__}", file=file, line=line, field=path or None
            )
        self.value: Mapping[str, Any] = value

    def fail(self, name: str, what: str) -> NoReturn:
        """Raise InputError for one field."""
        raise InputError(what, file=self.file, line=self.line, field=f"{self._path}{name}")

    def _get(self, name: str, default: Any) -> Any:
        found = self.value.get(name)
        if found is None:
            if default is _MISSING:
                self.fail(name, "is missing" if name not in self.value else "is null")
            return default
        return found

    def text(self, name: str, default: Any = _MISSING) -> Any:
        """A cleaned, non-empty string; integers are accepted as ids are often numbers."""
        found = self._get(name, default)
        if found is default:
            return default
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str):
            self.fail(name, f"expected text, got {type(found).__name__}")
        cleaned = clean_text(found)
        if not cleaned and default is _MISSING:
            self.fail(name, "is empty")
        return cleaned or default

    def number(self, name: str, default: Any = _MISSING) -> Any:
        found = self._get(name, default)
        if found is default:
            return default
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            self.fail(name, f"expected a number, got {found!r:.40}")
        if not -_LARGEST_NUMBER <= found <= _LARGEST_NUMBER:
            # JSON's 1e999 is read as infinity, which no writer takes, and NaN is larger than nothing.
            self.fail(name, f"expected a number of ordinary size, got {found!s:.40}")
        return found

    def boolean(self, name: str, default: Any = _MISSING) -> bool:
        found = self._get(name, default)
        if not isinstance(found, bool):
            self.fail(name, f"expected true or false, got {found!r:.40}")
        return bool(found)

    def object(self, name: str) -> "FieldReader | None":
        found = self.value.get(name)
        return None if found is None else self._child(found, name)

    def objects(self, name: str, default: Any = _MISSING) -> "Sequence[FieldReader]":
        found = self._get(name, default)
        if found is default:
            return ()
        if not isinstance(found, list):
            self.fail(name, f"expected a list, got {type(found).__name__}")
        return [self._child(item, f"{name}[{position}]") for position, item in enumerate(found)]

    def _child(self, value: Any, name: str) -> "FieldReader":
        return FieldReader(value, file=self.file, line=self.line, path=f"{self._path}{name}.")
