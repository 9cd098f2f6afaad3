"""The lines of request and response files, in the form of OpenAI's batch endpoint, which vLLM and SGLang read too."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import litellm
from litellm.utils import get_optional_params

from data.base.errors import InputError, first_line
from data.base.text import content_id

# litellm's own settings of a call, which are no part of a request.
_NOT_SENT = frozenset(
    {"api_base", "api_key", "timeout", "num_retries", "max_retries", "cache", "caching", "rollout_id", "model",
     "extra_body"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One call of a wave: `id` is the hash of its body, so that an answer can be told from one to something else."""

    id: str
    body: Mapping[str, Any]

    def line(self) -> str:
        """The request as one line of a file."""
        value = {"custom_id": self.id, "method": "POST", "url": "/v1/chat/completions", "body": self.body}
        return json.dumps(value, ensure_ascii=False) + "\n"

    @property
    def num_bytes(self) -> int:
        """The length of the line in a file."""
        return len(self.line().encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswer:
    """What came back for one request: the completion's JSON body, or the status and message of its error.

    `lost` marks a request that nobody worked on (an expired or failed batch): it was not billed.
    """

    id: str
    body: Mapping[str, Any] | None = None
    status: int = 200
    message: str = ""
    lost: bool = False


def batch_request(
    model: str, messages: Iterable[Mapping[str, Any]], settings: Mapping[str, Any], *, asker: str = ""
) -> BatchRequest:
    """The request for litellm's `model`, its settings named as the provider wants them; `asker` tells equal ones apart.

    Raises InputError when the model does not take one of them.
    """
    name, provider, _, _ = litellm.get_llm_provider(model)
    extra = dict(settings.get("extra_body") or {})
    wanted = {key: value for key, value in settings.items() if key not in _NOT_SENT and value is not None}
    try:
        taken = get_optional_params(model=name, custom_llm_provider=provider, **wanted)
    except litellm.UnsupportedParamsError as error:
        raise InputError(f"{model} does not take a setting: {first_line(error)}", field="extra") from error
    taken.pop("extra_body", None)
    body = {"model": name, "messages": list(messages), **taken, **extra}
    text = json.dumps(body, ensure_ascii=False, sort_keys=True, default=str)
    return BatchRequest(id=content_id(asker, text), body=body)


def read_answers(text: str, *, file: str) -> list[BatchAnswer]:
    """The answers of a response file, in any order; a last line that was cut off is left out.

    Raises InputError (file, line) at anything else that is no answer.
    """
    found: list[BatchAnswer] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_answer(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if number == len(lines):
                break  # not ended by a line break: whoever writes the file is not done with it
            raise InputError(
                f"is no line of a batch's answers ({type(error).__name__}: {first_line(error)}): expected custom_id "
                "and a response or an error",
                file=file,
                line=number,
            ) from error
    return found


def _answer(value: Mapping[str, Any]) -> BatchAnswer:
    custom_id = str(value["custom_id"])
    response, error = value.get("response"), value.get("error")
    if response is None:
        error = error or {}
        return BatchAnswer(id=custom_id, status=0, message=str(error.get("message") or "no response"), lost=True)
    status, body = int(response.get("status_code") or 200), response.get("body") or {}
    if status >= 400 or "choices" not in body:
        fault = body.get("error") or error or {}
        return BatchAnswer(id=custom_id, status=max(status, 400), message=str(fault.get("message") or body)[:300])
    return BatchAnswer(id=custom_id, body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """How far a batch is; `files` are what to read once it ended, complete or not, `reason` why it was refused or cut
    short."""

    status: Literal["running", "ended", "refused"]
    files: tuple[str, ...] = ()
    reason: str = ""
