"""What litellm is told about a model before the first call."""

import litellm
import pytest

from data.errors import InputError
from programs.budget import Budget
from programs.lms import Price, hosted_model, known_price

SERVER = "http://127.0.0.1:9/v1"


def test_a_model_of_ones_own_is_listed_without_a_price() -> None:
    # Unlisted, litellm goes through its rules for unknown names at every call.
    with pytest.raises(litellm.exceptions.ModelNotMappedError):
        litellm.get_model_info("openai/of-my-own")
    spec = hosted_model("openai/of-my-own", flag="lm", api_base=SERVER)
    assert litellm.get_model_info("openai/of-my-own")["mode"] == "chat"
    assert known_price(spec) is None
    with pytest.raises(InputError, match="price of openai/of-my-own is unknown"):
        Budget(usd=1.0).check_priced(spec, "lm")


def test_what_the_list_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        litellm.model_cost,
        "openai/listed",
        {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
    )
    assert known_price(hosted_model("openai/listed", flag="lm", api_base=SERVER)) == Price(prompt=1e-6, completion=2e-6)


def test_a_server_that_takes_a_schema_for_any_model() -> None:
    assert not litellm.supports_response_schema("hosted_vllm/of-my-own")
    hosted_model("hosted_vllm/of-my-own", flag="lm", api_base=SERVER)
    assert litellm.supports_response_schema("hosted_vllm/of-my-own")
