"""The program of `just verify`: nothing is written; what a row has is judged by its requirements."""

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

from programs.modules.candidates import Synthesis
from programs.modules.predictors import Predictor
from programs.modules.row_program import Role, RowInputs, RowProgram
from programs.modules.signatures import ExtractRequirements
from programs.modules.verifier import VERIFY_SIGNATURES
from programs.options import VerifyBy

VERIFY = "verify"


class RowJudge(RowProgram):
    """One line-up a row (or a call a passage), after an extraction where the row came without requirements."""

    verify_by: VerifyBy
    roles: ClassVar[Mapping[Predictor, Role]] = {"extract": "generator", "verify": "verifier"}

    def __init__(self, *, malformed_retries: int = 2, verify: VerifyBy = "line-up"):
        super().__init__(malformed_retries, {"extract": ExtractRequirements, "verify": VERIFY_SIGNATURES[verify]})
        self.verify_by = verify

    async def run(self, row: RowInputs, faults: Counter[str]) -> Synthesis:
        """The verdicts on the row's mined passages and on its positive."""
        read = Synthesis(requirements=row.requirements)
        if not row.requirements:
            read, _ = await self.read_row(row, 0, faults)
        if read.failure is not None:
            return read
        _, outcome = await self.judge_row(row, read, [], faults, first=True)
        return outcome
