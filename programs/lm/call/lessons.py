"""What a server refused, and how it is asked instead: learnt from its own words, once for all later calls."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from programs.lm.models import ModelSpec
from programs.lm.usage import TextSize, estimated_tokens

log = logging.getLogger(__name__)

# Parameters that a call can do without. What a user gave by name (`extra`) is not the run's to leave out.
_OPTIONAL = (
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "frequency_penalty",
    "presence_penalty", "stream_options",
)  # fmt: skip
# Keywords of JSON Schema that bound values; some hosted models refuse a schema with any of them.
_BOUNDS = frozenset(
    {"maxItems", "minItems", "uniqueItems", "maxLength", "minLength", "pattern", "format", "minimum", "maximum",
     "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "default", "title", "description", "minProperties",
     "maxProperties"}
)  # fmt: skip
_OF_SCHEMAS = re.compile(
    r"schema|response.?format|structured|grammar|\$ref|\$defs|additionalProperties|"
    + "|".join(sorted(_BOUNDS - {"default", "title", "description", "format", "pattern"})),
    re.IGNORECASE,
)
_STREAM_ONLY = re.compile(r"stream", re.IGNORECASE)
# Ollama loads a model anew for another context length: it is asked for powers of two from this one on.
_SHORTEST_CONTEXT = 4096


class Lessons:
    """How the parameters of one model's calls must be changed for its server to take them."""

    def __init__(self, spec: ModelSpec):
        self._name, self._kept = spec.name, frozenset(spec.extra)
        self._is_ollama = spec.model.startswith(("ollama/", "ollama_chat/"))
        self._context = 0
        self._left_out: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._plain_schema = False
        self.streams = False

    def applied(self, parameters: Mapping[str, Any], prompt: TextSize) -> dict[str, Any]:
        """The parameters of a call with this prompt as the server takes them, as far as is known."""
        if self._is_ollama and "num_ctx" not in parameters:
            parameters = {**parameters, "num_ctx": self._wide_enough(prompt, parameters.get("max_tokens"))}
        asked = {
            self._renamed.get(name, name): value
            for name, value in parameters.items()
            if self._renamed.get(name, name) not in self._left_out
        }
        wanted = asked.get("response_format")
        if self._plain_schema and isinstance(wanted, Mapping) and "json_schema" in wanted:
            described = wanted["json_schema"]
            plain = without_bounds(described["schema"])
            asked["response_format"] = {**wanted, "json_schema": {**described, "schema": plain}}
        if self.streams:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
            asked = {name: value for name, value in asked.items() if name not in self._left_out}
        return asked

    def _wide_enough(self, prompt: TextSize, max_tokens: int | None) -> int:
        """A context length for Ollama, which would cut a long prompt without a word."""
        needed = estimated_tokens(prompt) * 4 // 3 + (max_tokens or _SHORTEST_CONTEXT)
        while self._context < needed:
            self._context = max(_SHORTEST_CONTEXT, self._context * 2)
        return self._context

    def learn(self, words: str, parameters: Mapping[str, Any]) -> None:
        """Take from a refusal, in the server's words, what the next request must do without."""
        if "max_tokens" in parameters and "max_completion_tokens" in words:
            self._say(words, "max_tokens is sent as max_completion_tokens")
            self._renamed["max_tokens"] = "max_completion_tokens"
            return
        for name in _OPTIONAL:
            if name in parameters and name not in self._kept and re.search(rf"\b{name}\b", words):
                self._say(words, f"{name} is left out")
                self._left_out.add(name)
                return
        if "stream" not in parameters and _STREAM_ONLY.search(words):
            self.stream()
        elif "response_format" in parameters and _OF_SCHEMAS.search(words):
            if self._plain_schema:
                self._say(words, "no schema is sent")
                self._left_out.add("response_format")
            else:
                self._say(words, "bounds and references are left out of schemas")
                self._plain_schema = True

    def stream(self) -> None:
        """The server answers in streams alone."""
        if not self.streams:
            log.warning("%s answers in streams alone: it is asked for them", self._name)
        self.streams = True

    def _say(self, words: str, change: str) -> None:
        log.warning("%s refuses a parameter (%s): from now on %s", self._name, words[:200], change)


def without_bounds(schema: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """A JSON schema without bounds of values, and with what it refers to written out."""
    if isinstance(schema, list):
        return [without_bounds(each, definitions) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    definitions = definitions if definitions is not None else schema.get("$defs", {})
    if "$ref" in schema:
        return without_bounds(definitions[str(schema["$ref"]).rpartition("/")[2]], definitions)
    found = {}
    for name, value in schema.items():
        if name == "properties":
            # Names of fields, which may be called like a keyword.
            found[name] = {field: without_bounds(each, definitions) for field, each in value.items()}
        elif name not in _BOUNDS and name != "$defs":
            found[name] = value if name in ("enum", "const", "required") else without_bounds(value, definitions)
    return found
