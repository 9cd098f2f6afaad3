"""A deterministic world in which feedback can be followed: a toy retriever and a model that does as it is told.

The model's negatives come close to the boundary only if its instruction asks for that, in whatever words; its
reflecting side puts the advice that it finds in the feedback into words of its own, and finds none in a bare score.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from aiohttp import web

from data.records import Negative, Passage, Row
from programs.feedback.retriever import Vector
from programs.lm.servers.loopback import completion_response
from programs.lm.servers.recorded import read_inputs, render_answer
from programs.lm.usage import message_text
from tests.fakes.fake_model import FakeModel

# Ways to say what the feedback on a draft that is too easy says; the reflecting side takes one after the other.
PARAPHRASES = (
    "Stay closer to what the answer is about and to how it is phrased.",
    "Retain the topic of the given passage and reuse more of its vocabulary.",
    "Let the new passage share subject and words with the answer.",
    "Preserve more of the original's wording and theme.",
)
_FEEDBACK = re.compile(r'"Feedback": "((?:[^"\\]|\\.)*)"')
_CLOSE = re.compile(r"\b(keep|retain|reuse|share|preserve|stay (?:near|close)|closer)", re.IGNORECASE)
_CONTENT = re.compile(r"\b(subject|topic|theme|about|word|vocabulary|phras)", re.IGNORECASE)
WIDTH = 512


def asks_to_stay_close(text: str) -> bool:
    """Whether a sentence of `text` asks for passages nearer to the answer in content and words."""
    return any(_CLOSE.search(part) and _CONTENT.search(part) for part in re.split(r"[.!?\n]", text))


class WordsRetriever:
    """Embeds a text as its hashed bag of words, normalised: similarity is the overlap of words."""

    name = "words"

    def embed(self, texts: Sequence[str], role: str) -> list[Vector]:
        """One embedding [WIDTH] a text."""
        return [_bag(text) for text in texts]


def _bag(text: str) -> Vector:
    vector = np.zeros(WIDTH, dtype=np.float32)
    for word in re.findall(r"\w+", text.lower()):
        vector[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) % WIDTH] += 1
    norm = np.linalg.norm(vector)
    return vector / norm if norm else vector


class ObedientModel(FakeModel):
    """Generator, verifier and reflector in one server."""

    def __init__(self) -> None:
        super().__init__()
        self.reflections = 0

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        text = message_text(body["messages"][-1])
        inputs, layout = read_inputs(text)
        if "current_instruction" in inputs:
            self.reflections += 1
            feedback = "\n".join(_FEEDBACK.findall(inputs["examples_with_feedback"]))
            advised = asks_to_stay_close(feedback)
            added = PARAPHRASES[self.reflections % len(PARAPHRASES)] if advised else "Do better than last time."
            new = f"{inputs['current_instruction']}\n{added}"
            return completion_response(body, render_answer({"new_instruction": new}, layout))
        if "target" in inputs or "violations" in inputs:
            told = asks_to_stay_close(message_text(body["messages"][0]))
            planned = json.loads(inputs["violations"]) if "violations" in inputs else [inputs]
            drafts = [_draft(inputs["passage"], each, told) for each in planned]
            answer = render_answer({"negatives": drafts} if "violations" in inputs else {"negative": drafts[0]}, layout)
            return completion_response(body, answer)
        return await super().answer(request, body)


def _draft(passage: str, planned: dict[str, str], told: bool) -> str:
    number, words = planned["target"].split(".")[0], passage.split()
    subject = " ".join(words if told else words[: len(words) // 2])
    padding = "" if told else " Quite unrelated remarks about something else altogether follow here at length."
    return f"{subject}{padding} It breaks requirement {number}. {planned['direction']}"


def closed_loop_rows(count: int) -> list[Row]:
    """Rows whose mined negatives share half of the positive's words."""
    rows = []
    for number in range(count):
        thing = f"widget{number}"
        # Of different lengths, so that not every row scores the same.
        extra = " and more" * (number % 3)
        rows.append(
            Row(
                query_id=f"q{number}",
                query=f"how long does the warranty of the {thing} last",
                positives=(
                    Passage(id=f"p{number}", text=f"The warranty of the {thing} does last three years{extra}."),
                ),
                negatives=tuple(
                    Negative(text=f"The {thing} does come with warranty {word} of the shop.", source="mined")
                    for word in ("papers", "colours", "stickers")
                ),
            )
        )
    return rows
