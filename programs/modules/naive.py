"""The baseline that counterfactual negatives are compared with: one plain prompt, no requirements, no verifier.

It runs through the same store, budget and retries, so that a comparison differs in the prompts alone.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import dspy

from data.base.text import same_text_key
from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import Predictor, Step, author
from programs.modules.row_program import Role, RowInputs, RowProgram, draft_candidate
from programs.modules.signatures import WriteHardNegatives

NAIVE = "naive"


class NaiveWriter(RowProgram):
    """One call a row; every passage that is not empty, too long or a copy counts as accepted, unverified."""

    roles: ClassVar[Mapping[Predictor, Role]] = {"write": "generator"}

    def __init__(self, *, negatives_per_row: int = 4, malformed_retries: int = 2):
        super().__init__(malformed_retries)
        self.signatures = {"write": WriteHardNegatives}
        self.write = dspy.Predict(WriteHardNegatives)
        self.negatives_per_row = negatives_per_row

    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """One call, its passages taken as they are."""
        count = self.negatives_per_row
        asked = {"query": row.query, "passage": row.passage, "count": count}
        found = await self.call(Step("write", asked, expected_length=("negatives", count)), faults)
        if isinstance(found, CallError):
            return Synthesis(failure=f"write_{found.loss}", failure_detail=found.detail)
        known = {same_text_key(text) for text in (row.passage, *row.known_texts)}
        planned = Candidate(requirement=None, disruption="", direction="", fate="not_written")
        drafts = [
            draft_candidate(planned, text, generator=author(found), step="write", known=known, faults=faults)
            for text in found.negatives
        ]
        # What a verifier would see next is taken as it is.
        candidates = [replace(d, fate="accepted") if d.fate == "not_verified" else d for d in drafts]
        return Synthesis(candidates=tuple(candidates))
