"""Named losses of a run, and provider errors as one clear line without secrets."""

import os
import re
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from dspy import lm15
from dspy.utils.exceptions import AdapterParseError

from data.base.errors import InputError

# Why one call gave no answer, after its retries.
CallLoss = Literal[
    "rate_limited", "timeout", "server_error", "connection", "too_long", "request_refused", "truncated", "bad_response",
    "content_filter",
]  # fmt: skip
_TRANSIENT: tuple[tuple[type[Exception], CallLoss], ...] = (
    (lm15.RateLimitError, "rate_limited"),
    (lm15.TimeoutError, "timeout"),
    (lm15.ServerError, "server_error"),
    (lm15.TransportError, "connection"),
)
# Errors that no other call of the run could escape, with what a user can do about them.
_FOR_THE_USER: tuple[tuple[type[Exception], str], ...] = (
    (lm15.AuthError, "the key was refused; check the key in the environment ({})"),
    (lm15.UnsupportedModelError, "the model or address is not known there ({})"),
    (lm15.BillingError, "the account has no quota left ({})"),
    (lm15.ConfigurationError, "{}"),
)
# Losses whose cause may pass by itself.
PASSING_LOSSES: tuple[str, ...] = tuple(loss for _, loss in _TRANSIENT)
# Keys in use, whatever the variable is called that they came from.
_KEYS: set[str] = set()
_SHORTEST_KEY = 6
# A variable's value of so many characters is no word that an answer could hold by chance.
_LONG_KEY = 16
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$|BEARER_TOKEN")
_SECRET_FORM = re.compile(r"\b(sk|pk|hf|gsk|xai|key|loopback)-[A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+\S+")


class CallError(Exception):
    """A call that gave no usable answer: a counted loss of one row, not the end of the run."""

    def __init__(self, loss: CallLoss | Literal["malformed"], detail: str):
        self.loss, self.detail = loss, redact(detail)
        super().__init__(f"{loss}: {self.detail}")


class RunStoppedError(InputError):
    """The run cannot go on (nothing answers); what is finished is kept and the same command resumes it."""


def register_secret(key: str) -> str:
    """Remember a key, so that `redact` takes it out of every text from now on; returns it."""
    if len(key) >= _SHORTEST_KEY:
        _KEYS.add(key)
    return key


def register_address(address: str) -> str:
    """Remember what an address holds of secrets: a user's password, and the values of its query; returns it."""
    parts = urlsplit(address)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    for value in (password or user, *(value for _, value in parse_qsl(parts.query))):
        register_secret(value)
        register_secret(unquote(value))
    return address


def without_keys(text: str, shortest: int = _LONG_KEY) -> str:
    """`text` without registered keys and the values, of `shortest` characters or more, of secret environment variables;
    all else as it is."""
    named = {value for name, value in os.environ.items() if len(value) >= shortest and _SECRET_NAME.search(name)}
    # The longest first: one key may begin like another.
    for value in sorted(_KEYS | named, key=len, reverse=True):
        text = text.replace(value, "[secret]")
    return text


def redact(text: str, limit: int = 300) -> str:
    """`text` on one line, cut to `limit` characters, without registered keys, the values of secret environment
    variables, or what looks like a key."""
    text = _SECRET_FORM.sub("[secret]", without_keys(text, shortest=_SHORTEST_KEY))
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def transient_kind(error: Exception) -> CallLoss | None:
    """The loss that an error ends as if retrying it does not help, or None when it must not be retried."""
    return next((loss for kind, loss in _TRANSIENT if isinstance(error, kind)), None)


def user_error(error: Exception, *, role: str, model: str) -> Exception:
    """What an error that is not retried becomes: InputError stops the run, CallError is counted."""
    if isinstance(error, (InputError, CallError)):
        return error
    detail = redact(str(error))
    for kind, words in _FOR_THE_USER:
        if isinstance(error, kind):
            return InputError(f"{role} {model}: {words.format(detail)}")
    if isinstance(error, lm15.ContextLengthError):
        return CallError("too_long", detail)
    if isinstance(error, lm15.InvalidRequestError):
        return CallError("request_refused", detail)
    return CallError(transient_kind(error) or "bad_response", detail)


# What an answer ends in that cannot be used; a thousand opening brackets are too deep for the parsers.
UNREADABLE = (AdapterParseError, CallError, RecursionError)
