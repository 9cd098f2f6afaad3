"""What litellm's list of models says: how a model is called, what it takes, and what it costs."""

from dataclasses import dataclass
from typing import Any

import litellm

from data.base.errors import InputError
from programs.lm.models.spec import ModelSpec

# Without this litellm prints a banner to stdout on every error.
litellm.suppress_debug_info = True

# Providers whose servers take a JSON schema for any model they run, which litellm's model list cannot know.
_SCHEMA_PROVIDERS = frozenset({"hosted_vllm", "vllm", "ollama_chat", "lm_studio", "llamafile"})
# Providers whose credentials litellm may fetch over the network while it prepares a call.
_FETCH_CREDENTIALS = frozenset(
    {"vertex_ai", "vertex_ai_beta", "gemini", "bedrock", "sagemaker", "sagemaker_chat", "azure", "azure_ai", "watsonx",
     "oci", "sap", "gigachat", "github_copilot", "databricks", "snowflake", "predibase"}
)  # fmt: skip


def register_with_litellm(spec: ModelSpec) -> None:
    """Put a model on litellm's list, without a price, where the list says too little of it.

    A server of one's own that speaks OpenAI's protocol has models that nobody lists; for each call to one litellm goes
    through all its rules for unknown names, several times.
    """
    provider = provider_of(spec.model)
    entry: dict[str, Any] = {"litellm_provider": provider, "mode": "chat"}
    if spec.is_local or provider in _SCHEMA_PROVIDERS:
        entry["supports_response_schema"] = True
        listed = litellm.supports_response_schema(spec.model, custom_llm_provider=provider)
    else:
        listed = provider != "openai" or _is_listed(spec.model)
    if not listed:
        litellm.register_model({spec.model: entry})


def _is_listed(name: str) -> bool:
    try:
        litellm.get_model_info(name)
    except litellm.exceptions.ModelNotMappedError:
        return False
    return True


def call_settings(spec: ModelSpec) -> dict[str, Any]:
    """The keyword arguments of every call to this model. Retries are ours: litellm's and the client's own are off."""
    register_with_litellm(spec)
    settings = {
        "model": spec.model,
        "api_base": spec.api_base,
        "api_key": spec.api_key,
        "temperature": spec.temperature,
        "max_tokens": spec.max_tokens,
        "timeout": spec.timeout_s,
        "num_retries": 0,
        "max_retries": 0,
    }
    return {name: value for name, value in settings.items() if value is not None} | dict(spec.extra)


def reads_schema(spec: ModelSpec) -> bool:
    """Whether the provider shows the model the JSON schema of a request, and counts its tokens. A server of one's own
    decodes under it at most, so that the model knows the schema from the prompt alone."""
    if spec.is_local or spec.schema_constrained:
        return False
    provider = provider_of(spec.model)
    return provider not in _SCHEMA_PROVIDERS and bool(
        litellm.supports_response_schema(spec.model, custom_llm_provider=provider)
    )


def abilities(spec: ModelSpec) -> dict[str, Any]:
    """What litellm's list says that this model takes, in DSPy's names."""
    provider = provider_of(spec.model)
    return {
        "supports_function_calling": litellm.supports_function_calling(spec.model),
        "supports_reasoning": litellm.supports_reasoning(spec.model),
        "supports_response_schema": litellm.supports_response_schema(spec.model, custom_llm_provider=provider),
        "supported_params": litellm.get_supported_openai_params(spec.model, custom_llm_provider=provider) or [],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD a token; `cached` is that of prompt tokens that the provider had in its cache."""

    prompt: float
    completion: float
    cached: float | None = None


def known_price(spec: ModelSpec) -> Price | None:
    """The model's price as it is called, or None when nobody has said what that costs (litellm itself would call it
    zero). Batches have a price of their own."""
    if spec.is_local:
        return Price(prompt=0.0, completion=0.0)
    provider, _, bare = spec.model.partition("/")
    named, listed = litellm.model_cost.get(spec.model) or {}, litellm.model_cost.get(bare) or {}
    # A bare name on the list is one provider's model (gpt-4o is OpenAI's); another server that runs a model of that
    # name takes its own price. Some providers are listed in parts: vertex_ai-language-models, bedrock_converse.
    bare_entries = [listed] if str(listed.get("litellm_provider")).startswith(provider) else []
    kind = "_batches" if spec.in_batches else ""
    for entry in (named, *bare_entries):
        prompt, completion = entry.get(f"input_cost_per_token{kind}"), entry.get(f"output_cost_per_token{kind}")
        if prompt is not None and completion is not None and min(prompt, completion) >= 0:
            cached = entry.get(f"cache_read_input_token_cost{kind}")
            return Price(
                prompt=float(prompt), completion=float(completion), cached=None if cached is None else float(cached)
            )
    return None


def needs_no_auth_call(spec: ModelSpec) -> bool:
    """Whether a call to this model is prepared without waiting for anything."""
    return spec.model.partition("/")[0] not in _FETCH_CREDENTIALS


def provider_of(name: str, flag: str = "lm") -> str:
    """The provider of a litellm model string. Raises InputError that names `flag` when litellm knows none."""
    try:
        return str(litellm.get_llm_provider(name)[1])
    except (litellm.BadRequestError, ValueError) as error:
        raise InputError(
            f"unknown model {name!r}: expected provider/model as litellm names them, such as openai/gpt-4.1-mini, "
            "ollama_chat/qwen3:8b or hosted_vllm/NAME with an api_base, or recorded:demo",
            field=flag,
        ) from error
