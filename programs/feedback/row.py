"""Feedback on a whole row: every candidate negative assessed under the retriever, and words for each predictor."""

from dataclasses import dataclass
from typing import Any

from data.records import Row
from programs.feedback.retriever import Retriever, cosine
from programs.feedback.score import Bands, CorpusStyle, Facts, ScoreTerms, assess, corpus_style, describe
from programs.modules.candidates import Candidate, Synthesis


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessed:
    """One candidate, what is known about it, its parts and its words; without a text there are no parts."""

    candidate: Candidate
    parts: ScoreTerms | None
    words: str

    @property
    def score(self) -> float:
        """0 for a candidate that was not written."""
        return 0.0 if self.parts is None else self.parts.score


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFeedback:
    """The row's score, the mean over its planned candidates, with everything that explains it."""

    synthesis: Synthesis
    assessed: tuple[Assessed, ...]

    @property
    def score(self) -> float:
        """In [0, 1]; 0 for a row that failed."""
        if not self.assessed:
            return 0.0
        return sum(one.score for one in self.assessed) / len(self.assessed)

    def words(self, predictor: str | None = None, output: Any = None) -> str:
        """What to change: for one predictor (and the one `output` of it that is looked at), or for the whole row."""
        name = (predictor or "").rpartition(".")[2]
        if self.synthesis.failure is not None:
            return (
                f"The row failed: {self.synthesis.failure.replace('_', ' ')}. {self.synthesis.failure_detail}".strip()
            )
        if name == "violate":
            seen = [one for one in self.assessed if one.candidate.text and one.candidate.text == _text(output)]
            return " ".join(one.words for one in seen) or self._row_words()
        if name == "extract":
            return self._plan_words()
        return self._row_words()

    def _row_words(self) -> str:
        return "\n".join(f"- {_title(one.candidate)}: {one.words}" for one in self.assessed)

    def _plan_words(self) -> str:
        lines = []
        strays = self.synthesis.faults.get("evidence_not_in_passage", 0)
        if strays:
            lines.append(f"{strays} evidence spans are not in the passage: quote it word for word.")
        lines.extend(
            f"- {_title(one.candidate)} came out as {one.candidate.fate.replace('_', ' ')}: {one.words}"
            for one in self.assessed
        )
        return "\n".join(lines)


def row_feedback(
    row: Row, synthesis: Synthesis, retriever: Retriever, bands: Bands, style: CorpusStyle | None = None
) -> RowFeedback:
    """Assess every candidate of a row's synthesis; `style` defaults to that of the row's own texts."""
    mined = [negative.text for negative in row.of_source("mined")]
    positives = [passage.text for passage in row.positives]
    written = [candidate for candidate in synthesis.candidates if candidate.text]
    if not written:
        return RowFeedback(synthesis=synthesis, assessed=tuple(map(_unwritten, synthesis.candidates)))
    (query,) = retriever.embed([row.query], "query")
    texts = [*positives, *mined, *(candidate.text for candidate in written)]
    vectors = dict(zip(texts, retriever.embed(texts, "document"), strict=True))
    style = style or corpus_style([*positives, *mined])
    assessed = []
    for candidate in synthesis.candidates:
        if not candidate.text:
            assessed.append(_unwritten(candidate))
            continue
        own, verdict = vectors[candidate.text], candidate.verdict
        kept, others = candidate.others_kept
        facts = Facts(
            similarity=float(query @ own),
            positive=max(float(query @ vectors[text]) for text in positives),
            mined=[float(query @ vectors[text]) for text in mined],
            siblings=[cosine(own, vectors[other.text]) for other in written if other is not candidate],
            relevant=None if verdict is None else verdict.answers_query,
            target_broken=_target_broken(candidate),
            kept=kept,
            others=others,
            style_fit=1.0 if style is None else style.fit(candidate.text),
        )
        parts = assess(facts, bands)
        assessed.append(Assessed(candidate=candidate, parts=parts, words=describe(facts, parts, bands)))
    return RowFeedback(synthesis=synthesis, assessed=tuple(assessed))


def _unwritten(candidate: Candidate) -> Assessed:
    return Assessed(candidate=candidate, parts=None, words="No usable draft was written.")


def _target_broken(candidate: Candidate) -> bool:
    if candidate.verdict is None:
        return candidate.fate == "accepted"
    assert candidate.requirement is not None
    return not candidate.verdict.satisfied[candidate.requirement.id - 1]


def _title(candidate: Candidate) -> str:
    assert candidate.requirement is not None
    return f"{candidate.disruption} of {candidate.requirement.statement!r} ({candidate.direction})"


def _text(output: Any) -> str | None:
    text = getattr(output, "negative", None)
    return text.strip() if isinstance(text, str) else None
