"""How calls to models travel: every asynchronous client of litellm gets the transport of this module.

An attempt at a call is an `Exchange`. Within one, no redirect is followed (the key would travel with it), a body is
read up to a limit that counts after decompression, what the server says of waiting is noted, a request that may have
arrived is not posted a second time, and servers on this machine are not asked through a proxy.
"""

import functools
import ipaddress
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx
from litellm.llms.custom_httpx.aiohttp_transport import LiteLLMAiohttpTransport
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

from data.base.errors import InputError
from programs.lm.faults import CallError

# Far more than the longest answer that is read; what is longer is not an answer.
LONGEST_BODY_BYTES = 16 * 2**20
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ENCODINGS = "gzip, deflate"


@dataclass(slots=True)
class Exchange:
    """What went over the wire for one attempt.

    `billable`: the last request got a success, or nothing that could be read: an answer may have been produced, and
    billed, whether or not it arrived.
    `retry_after`: seconds that the server asks to wait. `refused`: what came and is not taken, in place of whatever the
    client made of it. `streamed`: the answer came as a stream of events.
    """

    billable: bool = False
    retry_after: float | None = None
    refused: CallError | InputError | None = None
    streamed: bool = False


_exchange: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchange() -> Iterator[Exchange]:
    """Every request in this context belongs to the exchange that is yielded."""
    one = Exchange()
    token = _exchange.set(one)
    try:
        yield one
    finally:
        _exchange.reset(token)


class ModelTransport(LiteLLMAiohttpTransport):  # type: ignore[misc]
    """litellm's own transport, with the rules of this module for requests within an `exchange`."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The whole response, read and decompressed."""
        response: httpx.Response
        one = _exchange.get()
        if one is None:
            response = await super().handle_async_request(request)
            return response
        request.headers["Accept-Encoding"] = _ENCODINGS
        one.billable = True
        try:
            response = await super().handle_async_request(request)
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectorError):
                one.billable = False
                raise
            # The connection broke after it was made. litellm would take this for one that never was, and post again.
            raise httpx.ReadError(str(error)) from error
        one.billable = response.is_success
        one.retry_after = _seconds_to_wait(response.headers)
        one.streamed = response.headers.get("content-type", "").startswith("text/event-stream")
        try:
            if response.has_redirect_location:
                one.refused = InputError(
                    f"{request.url.host} answers with a redirect ({response.status_code}) to "
                    f"{httpx.URL(response.headers['location']).host or 'another path'}; calls to models follow none: "
                    "give the address itself as api-base"
                )
            else:
                return await self._whole(request, response, one)
        finally:
            await response.aclose()
        raise httpx.ReadError(str(one.refused), request=request)

    @staticmethod
    async def _whole(request: httpx.Request, response: httpx.Response, one: Exchange) -> httpx.Response:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        decoder = None
        if encoding in _WINDOW_BITS:
            decoder = zlib.decompressobj(_WINDOW_BITS[encoding])
        elif encoding != "identity":
            one.refused = CallError("malformed", f"the answer is encoded as {encoding!r}, which was not asked for")
        parts: list[bytes] = []
        size = 0
        if one.refused is None:
            async for chunk in response.stream:  # type: ignore[union-attr]
                try:
                    part = chunk if decoder is None else decoder.decompress(chunk, LONGEST_BODY_BYTES - size + 1)
                except zlib.error as error:
                    raise httpx.ReadError(f"the answer cannot be decompressed ({error})", request=request) from error
                parts.append(part)
                size += len(part)
                if size > LONGEST_BODY_BYTES:
                    one.refused = CallError("malformed", f"the answer has more than {LONGEST_BODY_BYTES} bytes")
                    break
        if one.refused is not None:
            raise httpx.ReadError(str(one.refused), request=request)
        # What told how the body travelled is true of it no more.
        travelled = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.raw if name.lower().decode() not in travelled]
        return httpx.Response(response.status_code, headers=headers, content=b"".join(parts), request=request)

    async def _get_proxy_settings(self, request: httpx.Request) -> Any:
        return None if is_loopback(request.url.host) else await super()._get_proxy_settings(request)


@functools.cache
def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _seconds_to_wait(headers: httpx.Headers) -> float | None:
    """What Retry-After says, in seconds or as a date, None where it says nothing that can be read."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) / scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError, OSError):
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


def _transport(ssl_context: Any = None, ssl_verify: Any = None, shared_session: Any = None) -> ModelTransport:
    made = AsyncHTTPHandler.create_aiohttp_transport(
        ssl_context=ssl_context, ssl_verify=ssl_verify, shared_session=shared_session
    )
    return ModelTransport(
        client=made.client,
        ssl_verify=made._ssl_verify,
        owns_session=made._owns_session,
        session_factory=made._client_factory,
    )


# The one place where all asynchronous clients of litellm get their transport: its own handler, and the OpenAI client
# that it makes. `litellm.aclient_session` reaches the latter alone.
AsyncHTTPHandler.create_async_transport = staticmethod(_transport)
