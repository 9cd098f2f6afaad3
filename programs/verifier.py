"""The verifier as a program of its own, so that it can be compiled against passages whose answer is known."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import dspy

from data.records import Requirement
from programs.asking import AskingModule, Step
from programs.signatures import VerifyIrrelevance
from programs.synthesizer import read_verdict


class Verifier(AskingModule):
    """Sub-predictor `verify` alone; the prediction holds a `verdict`, None when there was no usable one."""

    def __init__(self, malformed_retries: int = 2):
        super().__init__(malformed_retries)
        self.verify = dspy.Predict(VerifyIrrelevance)

    def use(self, lm: dspy.LM, adapter: dspy.Adapter) -> "Verifier":
        """Set the model and its adapter; returns self."""
        self.verify.lm, self.adapters = lm, {"verify": adapter}
        return self

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Judge one passage; `inputs` are the signature's."""
        faults: Counter[str] = Counter()
        answer = self.ask(Step("verify", inputs, counted=("satisfied", len(inputs["requirements"]))), faults)
        return dspy.Prediction(verdict=read_verdict(answer))


def numbered(requirements: Sequence[Requirement]) -> tuple[str, ...]:
    """The statements as prompts show them."""
    return tuple(f"{requirement.id}. {requirement.statement}" for requirement in requirements)
