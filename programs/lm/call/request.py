"""A request of DSPy's as litellm takes it."""

from typing import Any

from dspy import lm15

_SAMPLING = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")


def request_messages(request: lm15.Request) -> list[dict[str, str]]:
    """The request's messages. Raises ValueError when one is no text."""
    found = [] if request.system is None else [("system", request.system)]
    found += [(message.role, message.text) for message in request.messages]
    if not all(isinstance(text, str) for _, text in found):
        raise ValueError("these models are sent text alone")
    return [{"role": role, "content": text} for role, text in found]


def request_parameters(config: lm15.Config) -> dict[str, Any]:
    """What this one call asks for beside the model's own settings, in litellm's names."""
    given = {name: value for name in ("max_tokens", *_SAMPLING) if (value := getattr(config, name)) is not None}
    if config.stop:
        given["stop"] = list(config.stop)
    if (wanted := config.response_format) is not None:
        given["response_format"] = dict(wanted)
        if wanted.get("type") == "json_schema":
            schema = {name: value for name, value in wanted.items() if name != "type"}
            given["response_format"] = {"type": "json_schema", "json_schema": schema}
    return given | dict(config.extensions or {})
