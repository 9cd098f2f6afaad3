"""Options."""

from typing import Literal

from data.base.errors import require

AdapterName = Literal["auto", "chat", "json", "xml"]


def require_budget(usd: float | None, tokens: int | None) -> None:
    """Check the two limits of a budget."""
    require(usd is None or usd > 0, "budget-usd", "more than 0", usd)
    require(tokens is None or tokens > 0, "budget-tokens", "more than 0", tokens)
