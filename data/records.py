"""The training row: one query, its positives, and a ragged list of negatives that each carry their own origin."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

from data.base.errors import InputError
from data.base.fields import (
    BlankText,
    Flag,
    FlagOrTrue,
    Flags,
    List,
    OptionalNumber,
    OptionalText,
    Positives,
    Read,
    Text,
    checked,
)
from data.base.text import content_id

Source = Literal["mined", "generated"]
Disruption = Literal[
    "entity_shift", "attribute_shift", "constraint_violation", "relation_break", "intent_drift", "adjacent_stage"
]
RequirementKind = Literal["entity", "attribute", "relation", "constraint", "intent"]
REQUIREMENT_KINDS: tuple[str, ...] = get_args(RequirementKind)


_LARGEST_POSITION = 10_000


def _position(value: Any) -> int:
    if type(value) not in (int, float) or not 1 <= value <= _LARGEST_POSITION or value != int(value):
        raise ValueError("expected the requirement's 1-based position")
    return int(value)


def _rank(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"expected a rank from 1, got {value!r:.40}")
    return value


def _share(value: Any) -> Any:
    if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
        raise ValueError(f"expected a share from 0 to 1, got {value!r:.40}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition that a passage must meet to be relevant; `id` is its 1-based position in the extracted list."""

    id: Annotated[int, Read(_position)]
    kind: Text
    statement: Text
    evidence: BlankText = ""
    critical: FlagOrTrue = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the blind verifier said: `satisfied[i]` belongs to the requirement with id i + 1."""

    satisfied: Flags = ()
    answers_query: Flag
    reason: BlankText = ""

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
    """A passage as the encoder sees it (title and text joined by a newline), with what a verifier said of it if any.

    Without an id it gets its text's hash. `source` is "mined" of a positive that was a mined negative until a verifier
    found that it answers the query; None of one that the data gave.
    """

    id: BlankText = ""
    text: Text
    verdict: Verdict | None = None
    source: OptionalText = None

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """By what a mined negative was found (dense, bm25) or judged (rescore), with its score there.

    `rank` is its place in that ranking of the corpus, from 1, positives included; None of what does not rank.
    """

    by: Text
    rank: Annotated[int | None, Read(lambda value: value if value is None else _rank(value))] = None
    score: OptionalNumber = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Negative:
    """A passage that does not answer the query, with its origin.

    `score` is the retriever's similarity at mining time; `found` says what else ranked or scored it where mining asked
    more than the retriever; `requirement` is the violated one; `generator` names the
    model and `program` the compiled program that wrote it (None for mined negatives). `grade` is how relevant the
    passage is all the same, 0 to 1, where the data says so itself (None: as the verdict says).
    """

    text: Text
    source: Source
    id: OptionalText = None
    score: OptionalNumber = None
    requirement: Requirement | None = None
    disruption: OptionalText = None
    verdict: Verdict | None = None
    generator: OptionalText = None
    program: OptionalText = None
    grade: Annotated[float | None, Read(_share)] = None
    found: List[Found] = ()

    @property
    def relevance(self) -> float | None:
        """The grade that the data gives, else the verdict's; None where the passage was not judged."""
        if self.grade is not None:
            return self.grade
        return None if self.verdict is None else self.verdict.grade


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One query with one or more positives and any number of negatives; without an id it gets its query's hash."""

    query_id: BlankText = ""
    query: Text
    positives: Positives[Passage]
    negatives: List[Negative] = ()
    requirements: List[Requirement] = ()

    def __post_init__(self) -> None:
        if not self.query_id:
            object.__setattr__(self, "query_id", content_id(self.query))

    def of_source(self, source: Source) -> tuple[Negative, ...]:
        """The negatives of one origin, in order."""
        return tuple(negative for negative in self.negatives if negative.source == source)


def row_content_id(row: Row) -> str:
    """A content hash of the query and the positives that the data gave: the key under which work on this row is stored,
    before and after mined passages became further positives."""
    return content_id(row.query, *(passage.text for passage in row.positives if passage.source is None))


def row_to_dict(row: Row) -> dict[str, Any]:
    """The JSON form of a row; fields that hold nothing are left out."""
    found: dict[str, Any] = without_empty(asdict(row))
    return found if row.negatives else found | {"negatives": []}


def without_empty(value: Any) -> Any:
    """A value of records or of JSON, of objects those fields alone that hold something; lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: without_empty(item) for key, item in value.items() if item is not None and item != ()}
    if isinstance(value, (list, tuple)):
        return [without_empty(item) for item in value]
    return value


def row_from_dict(value: Any, *, file: str | None = None, line: int | None = None) -> Row:
    """Check one decoded JSON row and build it. Raises InputError that names file, line and field."""
    row = checked(Row, value, file=file, line=line)
    wanted = len(row.requirements)
    verdicts = {
        "positives": [passage.verdict for passage in row.positives],
        "negatives": [negative.verdict for negative in row.negatives],
    }
    for name, judged in verdicts.items():
        for place, verdict in enumerate(judged):
            # A verdict that judged no requirement says nothing about them; nor does one in a row without any.
            found = 0 if verdict is None else len(verdict.satisfied)
            if wanted and found not in (0, wanted):
                raise InputError(
                    f"expected a value for each of the row's {wanted} requirements, got {found}",
                    file=file, line=line, field=f"{name}[{place}].verdict.satisfied",
                )  # fmt: skip
    return row
