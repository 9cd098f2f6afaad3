"""One budget in USD and tokens over every role, reserved before each call and settled with what it used."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from data.base.errors import InputError
from programs.lm.models import ModelSpec, Price, known_price
from programs.lm.usage import RoleUsage

# What a model without a token limit may write at most, when a call is reserved.
_UNLIMITED_ANSWER_TOKENS = 16_000


class BudgetSpentError(InputError):
    """The next call would not fit into what is left of the budget, or no further call is wanted."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one call under way may use at most."""

    tokens: int
    usd: float


class Budget:
    """Limits over all calls that share it; None is no limit. Safe to use from several threads.

    A call is reserved at its upper estimate (`usage.PromptBound`), so what is spent stays within the limit up to the
    error of the estimates of the calls in flight. One that does not fit beside them may fit once they have settled;
    once a call does not fit into what is not spent, no later one does.
    """

    def __init__(self, *, usd: float | None = None, tokens: int | None = None):
        self.limit_usd, self.limit_tokens = usd, tokens
        self.spent_usd, self.spent_tokens = 0.0, 0
        self.fatal: InputError | None = None
        self._held_usd, self._held_tokens = 0.0, 0
        self._kept_usd, self._kept_tokens = 0.0, 0
        self._spent: str | None = None
        self._closed: str | None = None
        self._lock = threading.Lock()

    def check_priced(self, spec: ModelSpec, flag: str) -> None:
        """Raise InputError when this model's price is unknown although the budget is in USD."""
        if self.limit_usd is not None and known_price(spec) is None:
            raise InputError(
                f"the price of {spec.name} is unknown, so a budget in USD cannot be kept; give --budget-tokens instead",
                field=flag,
            )

    def reserve(self, *, prompt_tokens: int, max_tokens: int | None, price: Price | None) -> Reservation | None:
        """Hold what the call may use at most; None when calls in flight hold too much: ask again when some settled.

        Raises BudgetSpentError when it does not fit any more.
        """
        completion = max_tokens or _UNLIMITED_ANSWER_TOKENS
        usd = 0.0 if price is None else prompt_tokens * price.prompt + completion * price.completion
        wanted = Reservation(tokens=prompt_tokens + completion, usd=usd)
        with self._lock:
            if self.fatal is not None:
                raise self.fatal
            self._spent = self._spent or self._lacking(wanted)
            if refusal := self._closed or self._spent:
                raise BudgetSpentError(refusal)
            if self._lacking(Reservation(wanted.tokens + self._held_tokens, wanted.usd + self._held_usd)):
                return None
            self._held_tokens += wanted.tokens
            self._held_usd += wanted.usd
        return wanted

    def _lacking(self, wanted: Reservation) -> str | None:
        """Why so much does not fit into what is not spent."""
        if self.limit_tokens is not None and (
            self.spent_tokens + wanted.tokens > self.limit_tokens - self._kept_tokens
        ):
            return (
                f"the budget of {self.limit_tokens} tokens is spent: {self.spent_tokens} are used and the next call "
                f"may take {wanted.tokens}"
            )
        if self.limit_usd is not None and self.spent_usd + wanted.usd > self.limit_usd - self._kept_usd:
            return (
                f"the budget of {self.limit_usd:g} USD is spent: {self.spent_usd:.4f} are used and the next call may "
                f"take {wanted.usd:.4f}"
            )
        return None

    def settle(self, reservation: Reservation, *, tokens: int, usd: float | None) -> None:
        """Replace a reservation by what the call used; an unknown price counts as what was reserved."""
        with self._lock:
            self._held_tokens -= reservation.tokens
            # With nothing in flight nothing is held, not even a rounding error that a waiting call would wait for.
            self._held_usd = self._held_usd - reservation.usd if self._held_tokens else 0.0
            self.spent_tokens += tokens
            self.spent_usd += reservation.usd if usd is None else usd

    def state_in_words(self) -> str:
        """What is spent, and what the calls under way may use at most."""
        with self._lock:
            spent, held = (
                f"{tokens} tokens" + (f" ({usd:.4f} USD)" if usd else "")
                for tokens, usd in ((self.spent_tokens, self.spent_usd), (self._held_tokens, self._held_usd))
            )
        return f"spent {spent}, reserved {held}"

    def add_spent(self, usages: Iterable[RoleUsage]) -> None:
        """Count what earlier runs in the same folder used, or may have been billed for."""
        with self._lock:
            for usage in usages:
                self.spent_tokens += usage.prompt_tokens + usage.completion_tokens + usage.reserved_tokens
                self.spent_usd += usage.cost_usd + usage.reserved_usd

    def keep_back(self, *, tokens: int, usd: float) -> None:
        """Set aside a part of the limits for calls after `release`."""
        with self._lock:
            self._kept_tokens, self._kept_usd = tokens, usd

    def release(self) -> None:
        """Free what was kept back; calls are allowed again if they fit now."""
        with self._lock:
            self._kept_tokens, self._kept_usd, self._spent = 0, 0.0, None

    def close(self, reason: str) -> None:
        """Refuse every further call (Ctrl-C); those in flight go on."""
        with self._lock:
            self._closed = reason

    def fail(self, error: InputError) -> None:
        """Refuse every further call with this error: no call can succeed any more."""
        with self._lock:
            self.fatal = self.fatal or error

    @property
    def refusal(self) -> str | None:
        """Why calls are refused, None while they are not."""
        return str(self.fatal) if self.fatal else self._closed or self._spent

    @property
    def open(self) -> bool:
        """Whether calls may still be made."""
        return self.refusal is None
