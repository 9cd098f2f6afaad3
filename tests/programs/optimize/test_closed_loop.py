"""The loop closes: through the real GEPA the compiled score rises because of the feedback's words, not its number."""

from collections.abc import Callable
from pathlib import Path

import dspy
import pytest

from data.row_files import read_rows, write_rows
from programs.feedback.metric import Judge, Words, synthesis_judge
from programs.feedback.score import Bands
from programs.lm.budget import Budget
from programs.lm.models import ModelSpec
from programs.lm.role_lm import RoleLM
from programs.modules.row_program import RowInputs
from programs.modules.saved import load_program
from programs.modules.signatures import ViolateRequirements
from programs.modules.synthesizer import Synthesizer
from programs.optimize.config import OptimizeConfig
from programs.optimize.part import StageResult, compile_part, freeze_verifier
from programs.optimize.run import optimize
from tests.fakes.closed_loop import PARAPHRASES, ObedientModel, WordsRetriever, asks_to_stay_close, closed_loop_rows
from tests.programs.optimize.test_optimize import settings


def bare_score(judge: Judge) -> Judge:
    """The same scores, with the number in place of the words."""

    def judged(example: dspy.Example, prediction: dspy.Prediction) -> tuple[float, Words]:
        score, _ = judge(example, prediction)
        return score, lambda predictor, output: f"This got a score of {score}."

    return judged


def compiled_with(wrap: Callable[[Judge], Judge]) -> tuple[StageResult, dspy.Module]:
    config = OptimizeConfig(
        rows=Path("unused"), optimizer="gepa", reflection_lm="fake", rollouts=60, concurrency=1, negatives_per_row=2
    )
    with ObedientModel() as server:
        spec = ModelSpec(
            is_local=True, name="fake", model="openai/obedient", api_base=server.api_base, api_key=server.token
        )
        lm = RoleLM("generator", spec)
        program = Synthesizer(negatives_per_row=2, repairs=0).use(generator=lm, verifier=lm)
        examples = [
            dspy.Example(
                row=row, inputs=RowInputs(query=row.query, passage=row.positives[0].text, relevance="r")
            ).with_inputs("inputs")
            for row in closed_loop_rows(14)
        ]
        parts = {"train": examples[:6], "dev": examples[6:10], "held_out": examples[10:]}
        judge = wrap(synthesis_judge(WordsRetriever(), Bands(), None))
        result = compile_part("generator", freeze_verifier(program), judge, parts, lm, Budget(), config)
        assert server.reflections > 0
    return result


def test_the_model_goes_by_what_is_meant_and_not_by_a_sentence() -> None:
    assert all(asks_to_stay_close(words) for words in PARAPHRASES)
    other = ("", "Do better than last time.", "Write about something else.", "Keep every other requirement.")
    assert not any(asks_to_stay_close(words) for words in (*other, ViolateRequirements.instructions))


@pytest.mark.slow
def test_the_score_rises_because_of_the_words() -> None:
    result, program = compiled_with(lambda judge: judge)
    assert result.held_out is not None
    assert result.held_out.difference.low > 0.1
    assert asks_to_stay_close(program.violate.signature.instructions)


@pytest.mark.slow
def test_the_score_does_not_rise_when_the_words_are_a_number() -> None:
    result, program = compiled_with(bare_score)
    assert result.kept_uncompiled or (result.held_out is not None and not result.held_out.difference.leaves_out_zero)
    assert not asks_to_stay_close(program.violate.signature.instructions)


@pytest.mark.slow
def test_the_whole_command_saves_a_program_that_synthesize_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, closed_loop_rows(16))
    with ObedientModel() as server:
        monkeypatch.setenv("OPENAI_API_KEY", server.token)
        config = settings(rows, server, max_tokens=2000, concurrency=2, adapter="auto")
        summary = optimize(config, WordsRetriever())
        assert summary["parts"]["generator"]["held_out"]["significant"]
        # The same folder again: every answer is there already.
        requests = sum(usage["requests"] for usage in summary["usage"].values())
        assert "answers of earlier starts" not in caplog.text
        again = optimize(config, WordsRetriever())
        assert f"has {requests} answers of earlier starts, which cost nothing now" in caplog.text
        assert sum(usage["requests"] for usage in again["usage"].values()) == requests
        assert again["parts"] == summary["parts"]
    fresh = Synthesizer()
    assert load_program(tmp_path / "out" / "program", fresh).startswith("program@")
    assert asks_to_stay_close(fresh.violate.signature.instructions)
    assert list(read_rows(rows)) == closed_loop_rows(16)
