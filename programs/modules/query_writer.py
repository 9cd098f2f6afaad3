"""From one passage to queries that it answers: written in one call, each judged blind in a call of its own."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from data.base.text import same_text_key
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import Predictor, Step, author
from programs.modules.row_program import Role, RowInputs, RowProgram, draft_candidate
from programs.modules.signatures import VerifyIrrelevance, WriteQueries
from programs.modules.verifier import Question, read_verdict, verify_step

# The judge of passages wants requirements; of a query that is all that is known.
_REQUIREMENT = "1. gives what the query asks for"


class QueryWriter(RowProgram):
    """The candidates are queries: accepted when the verifier says of the passage that it answers the query.

    A candidate that is refused has the fate not_verified and a verdict, one without a usable verdict has none.
    """

    roles: ClassVar[Mapping[Predictor, Role]] = {"write": "generator", "verify": "verifier"}

    def __init__(self, *, queries_per_passage: int = 2, malformed_retries: int = 2):
        super().__init__(malformed_retries, {"write": WriteQueries, "verify": VerifyIrrelevance})
        self.queries_per_passage = queries_per_passage

    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """Queries for `row.passage`; `row.style` holds sample queries."""
        asked = {
            "relevance": row.relevance,
            "style": list(row.style),
            "passage": row.passage,
            "count": self.queries_per_passage,
        }
        found = await self.call(Step("write", asked), faults)
        if isinstance(found, CallError):
            return Synthesis(failure=f"write_{found.loss}", failure_detail=found.detail)
        known = {same_text_key(text) for text in (row.passage, *row.style)}
        drafts = [
            draft_candidate(Candidate(), text, generator=author(found), step="write", known=known, faults=faults)
            for text in found.queries[: self.queries_per_passage]
        ]
        places = [place for place, draft in enumerate(drafts) if draft.fate == "not_verified"]
        steps = [
            verify_step(
                Question(relevance=row.relevance, query=drafts[p].text, requirements=(_REQUIREMENT,)), row.passage
            )
            for p in places
        ]
        for place, answer in zip(places, await self.call_all(steps, faults), strict=True):
            verdict = read_verdict(answer)
            answered = verdict is not None and verdict.answers_query
            drafts[place] = replace(
                drafts[place], verdict=verdict, fate="accepted" if answered else "not_verified",
                verdicts=int(verdict is not None), verdicts_relevant=int(answered),
            )  # fmt: skip
        return Synthesis(candidates=tuple(drafts))
