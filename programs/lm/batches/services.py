"""Where waves of requests go: a provider's batch endpoint through litellm, or a folder of files."""

import asyncio
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any, Protocol

import litellm
import openai

from data.base.errors import InputError, first_line
from data.base.files import atomic_writer, open_bytes, unpacking
from programs.lm.batches.lines import BatchAnswer, BatchRequest, BatchState, read_answers
from programs.lm.faults import CallError, redact
from programs.lm.models import ModelSpec, provider_of

# The providers whose batch functions litellm has.
BATCH_PROVIDERS = frozenset(
    {"openai", "azure", "vertex_ai", "bedrock", "hosted_vllm", "litellm_proxy", "mistral", "xai"}
)
# Under this name a batch's metadata carries our mark, by which a batch is found whose id never arrived.
MARK = "causalneg_wave"
_PAGE, _MOST_PAGES = 100, 20
_LEFT_ALONE_S = 60.0
_ENDED = frozenset({"completed", "expired", "cancelled"})


class FileTooLargeError(InputError):
    """The service takes no file of this size: the requests may go out in smaller ones."""


class BatchService(Protocol):
    """Sends a wave and fetches its answers. Every method raises InputError or CallError, never a client's own error."""

    async def send(self, requests: Iterable[BatchRequest], mark: str) -> str:
        """Send a wave under our mark; returns its id at the service."""

    async def find(self, mark: str) -> str | None:
        """The id of the wave that was sent under this mark, None if none was."""

    async def state(self, batch_id: str) -> BatchState:
        """How far a wave is."""

    async def answers(self, state: BatchState) -> list[BatchAnswer]:
        """The answers of an ended wave, in any order."""

    async def cancel(self, batch_id: str) -> None:
        """Ask the service to stop a wave."""


class ProviderBatches:
    """The batch endpoint of a model's provider. Raises InputError for a provider that has none."""

    def __init__(self, spec: ModelSpec, role: str):
        provider = provider_of(spec.model)
        if provider not in BATCH_PROVIDERS:
            raise InputError(
                f"{provider} has no batch endpoint that litellm reaches: use send=calls, or send=files with a program "
                f"that answers request files (batch endpoints: {', '.join(sorted(BATCH_PROVIDERS))})",
                field="send",
            )
        self._spec, self._role = spec, role
        self._client: dict[str, Any] = {
            "custom_llm_provider": provider, "api_base": spec.api_base, "api_key": spec.api_key, "max_retries": 0,
            "timeout": spec.timeout_s,
        }  # fmt: skip

    async def send(self, requests: Iterable[BatchRequest], mark: str) -> str:
        content = "".join(request.line() for request in requests).encode()
        upload = litellm.acreate_file(file=(f"{mark}.jsonl", content), purpose="batch", **self._client)
        file = await self._asked(upload)
        created = litellm.acreate_batch(
            completion_window="24h",
            endpoint="/v1/chat/completions",
            input_file_id=file.id,
            metadata={MARK: mark},
            **self._client,
        )
        batch = await self._asked(created)
        return str(batch.id)

    async def find(self, mark: str) -> str | None:
        after = None
        for _ in range(_MOST_PAGES):
            page = await self._asked(litellm.alist_batches(after=after, limit=_PAGE, **self._client))
            for batch in page.data:
                if (batch.metadata or {}).get(MARK) == mark:
                    return str(batch.id)
            if not page.data or not page.has_more:
                return None
            after = page.data[-1].id
        return None

    async def state(self, batch_id: str) -> BatchState:
        batch = await self._asked(litellm.aretrieve_batch(batch_id=batch_id, **self._client))
        if batch.status == "failed":
            faults = batch.errors.data if batch.errors and batch.errors.data else []
            return BatchState(status="refused", reason=str(faults[0].message if faults else "no reason given"))
        if batch.status not in _ENDED:
            return BatchState(status="running")
        files = tuple(file for file in (batch.output_file_id, batch.error_file_id) if file)
        return BatchState(status="ended", files=files, reason="" if batch.status == "completed" else batch.status)

    async def answers(self, state: BatchState) -> list[BatchAnswer]:
        found: list[BatchAnswer] = []
        for file_id in state.files:
            content = await self._asked(litellm.afile_content(file_id=file_id, **self._client))
            text = content.content.decode("utf-8", "replace")
            found += await asyncio.to_thread(read_answers, text, file=file_id)
        return found

    async def cancel(self, batch_id: str) -> None:
        await self._asked(litellm.acancel_batch(batch_id=batch_id, **self._client))

    async def _asked(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except openai.OpenAIError as error:
            # litellm's own errors are of these classes too.
            raise self._fault(error) from None

    def _fault(self, error: openai.OpenAIError) -> Exception:
        status = getattr(error, "status_code", None)
        detail = redact(first_line(error))
        who = f"{self._role} {self._spec.name}"
        if status in (401, 403):
            return InputError(f"{who}: the key was refused; check the key in the environment ({detail})")
        if isinstance(error, openai.APITimeoutError):
            return CallError("timeout", detail)
        if isinstance(error, openai.APIConnectionError):
            return CallError("connection", detail)
        if status == 429 or (isinstance(status, int) and status >= 500):
            return CallError("rate_limited" if status == 429 else "server_error", detail)
        kind = FileTooLargeError if status == 413 else InputError
        return kind(f"{who}: the batch endpoint refused the request ({detail})")


class FolderBatches:
    """OUT/requests/MARK.jsonl for whoever answers it, and OUT/responses/MARK.jsonl as its answer; no network."""

    def __init__(self, folder: Path):
        self._requests, self._responses = folder / "requests", folder / "responses"

    async def send(self, requests: Iterable[BatchRequest], mark: str) -> str:
        self._requests.mkdir(parents=True, exist_ok=True)
        self._responses.mkdir(parents=True, exist_ok=True)
        with atomic_writer(self._requests / f"{mark}.jsonl") as file:
            for request in requests:
                file.write(request.line())
        return mark

    async def find(self, mark: str) -> str | None:
        return mark if (self._requests / f"{mark}.jsonl").is_file() else None

    async def state(self, batch_id: str) -> BatchState:
        request, response = (folder / f"{batch_id}.jsonl" for folder in (self._requests, self._responses))
        if not response.is_file():
            return BatchState(status="running")
        # Whoever writes the file may not be done with it: it is read when complete, or when left alone for a while.
        # That somebody has cleared away what was asked is no fault.
        complete = request.is_file() and _num_lines(response) >= _num_lines(request)
        if not complete and time.time() - response.stat().st_mtime < _LEFT_ALONE_S:
            return BatchState(status="running")
        return BatchState(status="ended", files=(str(response),))

    async def answers(self, state: BatchState) -> list[BatchAnswer]:
        found: list[BatchAnswer] = []
        for file in state.files:
            with open_bytes(file) as opened, unpacking(file):
                content = await asyncio.to_thread(opened.read)
            found += read_answers(content.decode("utf-8", "replace"), file=file)
        return found

    async def cancel(self, batch_id: str) -> None:
        """A file that nobody reads does nothing; it stays for whoever wants to look."""


def _num_lines(path: Path) -> int:
    with open_bytes(path) as file:
        return sum(1 for line in file if line.endswith(b"\n"))
