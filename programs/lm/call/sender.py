"""How one attempt at a call travels: by itself through litellm, or with many others as a provider's batch."""

import asyncio
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import litellm
from dspy import lm15
from dspy.clients.engines.litellm_errors import litellm_errors

# litellm's own logging of each call costs a tenth of it, keeps prompts in memory and may write keys. Its public switch,
# "no-log" on a call, only silences who would be told: the record is still made and queued. This one prevents it.
from litellm._internal_context import is_internal_call

from programs.lm.meter import Answer, read_answer
from programs.lm.models import ModelSpec

# What a server counts oddly is settled by the meter; it is no news for whoever runs this.
warnings.filterwarnings("ignore", message="Pydantic serializer warnings", category=UserWarning)


class Sender(Protocol):
    """Sends one attempt of one model's calls.

    `if_cancelled` is the outcome of an attempt that is given up on while it is under way: what was sent by itself may
    have been billed, what is in a batch comes back in a later run and is paid for then.
    """

    if_cancelled: str

    async def send(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> Answer:
        """The answer. Raises one of lm15's errors, CallError or InputError."""

    def stored(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> None:
        """The journal has this answer: it need not be kept on the way any more."""


class LiveSender:
    """Every attempt is a request of its own, answered at once."""

    if_cancelled = "cancelled"

    def __init__(self, spec: ModelSpec):
        self._spec = spec

    async def send(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> Answer:
        quiet = is_internal_call.set(True)
        try:
            with litellm_errors(model=self._spec.model):
                # litellm's own limit begins anew with every piece of a body that arrives.
                async with asyncio.timeout(self._spec.timeout_s):
                    raw = await litellm.acompletion(messages=messages, **parameters)
                    if parameters.get("stream"):
                        raw = litellm.stream_chunk_builder([piece async for piece in raw], messages=messages)
                return read_answer(raw)
        except TimeoutError as error:
            if isinstance(error, lm15.LM15Error):
                raise
            raise lm15.TimeoutError(f"no whole answer within {self._spec.timeout_s:g} seconds") from error
        finally:
            is_internal_call.reset(quiet)

    def stored(self, messages: list[dict[str, str]], parameters: Mapping[str, Any]) -> None:
        """Nothing is kept on the way."""
