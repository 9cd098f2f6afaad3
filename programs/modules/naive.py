"""The baseline that counterfactual negatives are compared with: one plain prompt that plans nothing.

It runs through the same store, budget and retries, so that a comparison differs in the prompts alone.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import dspy

from programs.lm.faults import CallError
from programs.modules.candidates import Candidate, Synthesis
from programs.modules.predictors import Predictor, Step, author
from programs.modules.row_program import Role, RowInputs, RowProgram, draft_candidate
from programs.modules.signatures import ExtractRequirements, WriteHardNegatives
from programs.modules.verifier import VERIFY_SIGNATURES
from programs.options import VerifyBy

NAIVE = "naive"


class NaiveWriter(RowProgram):
    """One call a row; every passage that is not empty, too long or a copy counts as accepted, unverified.

    With `verify` the requirements are extracted too and the passages judged by them, like those of a Synthesizer: then
    the ones that do not answer the query are accepted, with their verdicts.
    """

    roles: ClassVar[Mapping[Predictor, Role]] = {"write": "generator", "extract": "generator", "verify": "verifier"}

    def __init__(self, *, negatives_per_row: int = 4, malformed_retries: int = 2, verify: VerifyBy | None = None):
        signatures: dict[Predictor, type[dspy.Signature]] = {"write": WriteHardNegatives}
        if verify is not None:
            signatures |= {"extract": ExtractRequirements, "verify": VERIFY_SIGNATURES[verify]}
        super().__init__(malformed_retries, signatures)
        self.verify_by, self.negatives_per_row = verify, negatives_per_row

    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """One call, its passages taken as they are or judged."""
        outcome = Synthesis()
        if self.verify_by is not None:
            outcome, _ = await self.read_row(row, self.negatives_per_row, faults)
            if outcome.failure is not None:
                return outcome
        count = self.negatives_per_row
        asked = {"query": row.query, "passage": row.passage, "count": count}
        found = await self.call(Step("write", asked, expected_length=("negatives", count)), faults)
        if isinstance(found, CallError):
            return Synthesis(failure=f"write_{found.loss}", failure_detail=found.detail)
        known = row.known_keys()
        drafts = [
            draft_candidate(Candidate(), text, generator=author(found), step="write", known=known, faults=faults)
            for text in found.negatives
        ]
        if self.verify_by is not None:
            drafts, outcome = await self.judge_row(row, outcome, drafts, faults, first=True)
        else:
            # What a verifier would see next is taken as it is.
            drafts = [replace(d, fate="accepted") if d.fate == "not_verified" else d for d in drafts]
        return replace(outcome, candidates=tuple(drafts))
