"""What litellm is told about a model before the first call."""

import os
from contextlib import ExitStack
from typing import Any

import dspy
import litellm
import pytest

from data.base.errors import InputError
from programs.lm.budget import Budget
from programs.lm.faults import redact, without_keys
from programs.lm.models import Models, ModelSpec, Price, known_price, log_roles
from programs.lm.role_lm import RoleLM
from programs.options import CallOptions
from tests.programs.lm.call.test_transport import GOOD, Server, answering

SERVER = "http://127.0.0.1:9/v1"


def resolved(name: str, api_base: str = SERVER, extra: dict[str, Any] | None = None) -> ModelSpec:
    with ExitStack() as stack:
        models = Models(stack, CallOptions(extra=extra))
        return models.resolve(name, flag="lm", temperature=0.0, api_base=api_base)


def test_a_model_of_ones_own_is_listed_without_a_price() -> None:
    # Unlisted, litellm goes through its rules for unknown names at every call.
    with pytest.raises(litellm.exceptions.ModelNotMappedError):
        litellm.get_model_info("openai/of-my-own")
    spec = resolved("openai/of-my-own")
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
    assert known_price(resolved("openai/listed")) == Price(prompt=1e-6, completion=2e-6)


def test_a_server_that_takes_a_schema_for_any_model() -> None:
    assert not litellm.supports_response_schema("hosted_vllm/of-my-own")
    spec = resolved("hosted_vllm/of-my-own")
    assert litellm.supports_response_schema("hosted_vllm/of-my-own")
    assert RoleLM("generator", spec).supports_response_schema


def test_what_a_model_takes_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolved("openai/gpt-4o")
    plain, lm = dspy.LM(spec.model, engine="litellm"), RoleLM("generator", spec)
    names = ("supports_function_calling", "supports_reasoning", "supports_response_schema", "supported_params")
    assert [getattr(lm, name) for name in names] == [getattr(plain, name) for name in names]
    assert lm.supports_response_schema
    monkeypatch.setattr(litellm, "supports_response_schema", lambda **_: False)
    assert lm.supports_response_schema and not plain.supports_response_schema


@pytest.mark.parametrize("name", ["openai/deepseek-chat", "hosted_vllm/gpt-4o", "litellm_proxy/gpt-4o"])
def test_another_providers_price_is_no_price(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The list has both bare names, with a price: of DeepSeek's and of OpenAI's own models.
    assert litellm.model_cost[name.partition("/")[2]]["input_cost_per_token"]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    spec = resolved(name)
    assert known_price(spec) is None
    with pytest.raises(InputError, match=f"price of {name} is unknown"):
        Budget(usd=1.0).check_priced(spec, "lm")


@pytest.mark.parametrize("name", ["openai/gpt-4o", "vertex_ai/gemini-2.5-flash", "deepseek/deepseek-chat"])
def test_a_providers_own_model_is_listed_by_its_bare_name(name: str) -> None:
    listed = litellm.model_cost[name.partition("/")[2]]
    assert known_price(ModelSpec(name=name, model=name)) == Price(
        prompt=listed["input_cost_per_token"],
        completion=listed["output_cost_per_token"],
        cached=listed.get("cache_read_input_token_cost"),
    )


def test_extra_parameters_reach_the_server_and_make_another_model() -> None:
    extra = {"seed": 7, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
    with Server(answering(GOOD)) as server:
        specs = [resolved("openai/of-my-own", f"{server.address}/v1", given) for given in (extra, {})]
        RoleLM("generator", specs[0])("hello")
    assert server.bodies[0]["seed"] == 7
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert specs[1].key == specs[1].name == specs[0].name != specs[0].key


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"api_key": "x"}, "looks like a secret"),
        ({"extra_headers": {"Authorization": "Bearer abc"}}, "looks like a secret"),
        ({"extra_body": {"keys": ["sk-abcdef123456"]}}, "looks like a secret"),
        ({"max_tokens": 5}, "has an option of its own"),
        ({"top_p": float("nan")}, "is not a JSON value"),
    ],
)
def test_extra_parameters_that_are_refused(extra: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        resolved("openai/of-my-own", extra=extra)


def test_models_of_one_provider_are_at_one_address_unless_told_otherwise(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "the-key-of-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "another-key-of-theirs")
    here = "http://me:pass-word@127.0.0.1:9/v1?code=query-key"
    with ExitStack() as stack:
        models = Models(stack, CallOptions(api_key_env="MY_KEY", api_base=here, extra={"top_p": 0.5}))
        specs = [
            models.resolve("openai/a", flag="lm", temperature=0.0),
            models.resolve("openai/b", flag="verifier-lm", temperature=0.0),
            models.resolve("ollama_chat/c", flag="verifier-lm", temperature=0.0),
            models.resolve("openai/d", flag="verifier-lm", temperature=0.0, api_base="http://[::1]:7"),
            models.resolve("openai/e", flag="verifier-lm", temperature=0.0, api_base="provider"),
        ]
        with pytest.raises(InputError, match="field 'verifier-api-base': 'nowhere' is no address"):
            models.resolve("openai/f", flag="verifier-lm", temperature=0.0, api_base="nowhere")
    assert [spec.api_base for spec in specs] == [here, here, None, "http://[::1]:7", None]
    assert [spec.api_key for spec in specs[:2]] == ["the-key-of-mine"] * 2
    assert specs[3].api_key != "the-key-of-mine" != specs[4].api_key
    assert [dict(spec.extra) for spec in specs] == [{"top_p": 0.5}] * 2 + [{}] + [{"top_p": 0.5}] * 2
    with caplog.at_level("INFO"):
        log_roles({"generator": specs[:1], "verifier": specs[2:]})
    assert caplog.messages == [
        "generator: openai/a at http://127.0.0.1:9/v1?code=[secret]",
        "verifier: ollama_chat/c at ollama_chat's own address, then openai/d at http://[::1]:7, "
        "then openai/e at openai's own address",
    ]
    assert redact("asked http://me:pass-word@127.0.0.1:9/v1?code=query-key") == (
        "asked http://me:[secret]@127.0.0.1:9/v1?code=[secret]"
    )
    assert without_keys("sk-looks-like-a-key,\n pass-word") == "sk-looks-like-a-key,\n [secret]"


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", "AWS_BEARER_TOKEN_BEDROCK"),
        ("azure/my-deployment", "AZURE_AD_TOKEN"),
        ("azure/my-deployment", "AZURE_CLIENT_SECRET"),
        ("azure/my-deployment", "AZURE_API_KEY"),
    ],
)
@pytest.mark.parametrize("api_base", [None, SERVER])
def test_credentials_that_litellm_finds_by_itself_are_neither_refused_nor_overridden(
    model: str, variable: str, api_base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_API_KEY", "AZURE_API_VERSION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AZURE_OPENAI_AD_TOKEN", raising=False)
    monkeypatch.setenv("AZURE_API_BASE", SERVER)
    with ExitStack() as stack, pytest.raises(InputError, match=r"needs A\w+_KEY"):
        Models(stack, CallOptions()).resolve(model, flag="lm", temperature=0.0)
    monkeypatch.setenv(variable, "a-secret-of-mine")
    with ExitStack() as stack:
        spec = Models(stack, CallOptions(api_base=api_base)).resolve(model, flag="lm", temperature=0.0)
    assert spec.api_key is None
    assert redact("it says a-secret-of-mine") == "it says [secret]"
    if variable == "AZURE_AD_TOKEN":
        assert os.environ["AZURE_OPENAI_AD_TOKEN"] == "a-secret-of-mine"
        monkeypatch.delenv("AZURE_OPENAI_AD_TOKEN")


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://a:99999", "http://\u2100", "http://a:b", "http://a/#SECRET"]
)
def test_an_address_that_nobody_can_read_is_one_line(address: str) -> None:
    with ExitStack() as stack, pytest.raises(InputError, match="is no address") as refused:
        Models(stack, CallOptions(api_base=address)).resolve("openai/x", flag="lm", temperature=None)
    assert "SECRET" not in str(refused.value)
