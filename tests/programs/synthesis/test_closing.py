"""The closing tables: what is not known is said so."""

from typing import Any

import pytest

from programs.synthesis.summary import optimization_table


@pytest.mark.parametrize(("usd", "words"), [(None, "86147 tokens, price unknown, 0 requests"), (0.5, "0.5000 USD")])
def test_an_unknown_price_is_not_shown_as_nothing(usd: float | None, words: str) -> None:
    summary: dict[str, Any] = {
        "parts": {},
        "parts_not_compiled": {},
        "usage": {},
        "spent": {"tokens": 86147, "usd": usd},
        "seconds_this_run": 1.0,
        "ended_early": None,
        "program_folder": "out/program",
    }
    assert words in optimization_table(summary)
