"""What every command that asks language models takes, and what those take that write negatives for rows."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.constructors import PrimitiveConstructorSpec

from data.base.errors import InputError
from data.base.options import Bound, Count, Natural, NotNegative, Positive, Seed, Share, at_least, between, options

# A mined negative that answers the query: a further positive, left out, or kept as it is.
MinedRelevant = Literal["promote", "drop", "keep"]
# Line-up: all passages of a row in one call. One by one: a call each.
VerifyBy = Literal["line-up", "one-by-one"]
AdapterName = Literal["auto", "chat", "json", "xml"]
ModelName = Annotated[str, Bound("a model string", lambda name: bool(name.strip()))]
Temperature = Annotated[float, between(0, 2)]


def read_extra(text: str) -> dict[str, Any]:
    """The parameters in a JSON object or in KEY=VALUE pairs, whose values are JSON or else text.

    Raises InputError that repeats none of it, as it may hold a secret.
    """
    fault = InputError("--extra: expected a JSON object, or KEY=VALUE pairs separated by commas")
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except (ValueError, RecursionError):
            raise fault from None
    pairs = [re.fullmatch(r"\s*([A-Za-z_][\w.-]*)\s*=(.*)", pair, re.DOTALL) for pair in text.split(",")]
    found = {pair[1]: _json_or_text(pair[2].strip()) for pair in pairs if pair is not None}
    if len(found) != len(pairs):
        raise fault
    return found


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


Extra = Annotated[
    Mapping[str, Any],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON|KEY=VALUE,...",
        instance_from_str=lambda words: read_extra(words[0]),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [json.dumps(dict(value))],
    ),
]


@options
class CallOptions:
    """How language models are called."""

    api_base: str | None = None
    """Address of an OpenAI-compatible server for lm, and for other models of its provider; None takes the provider's
    own or its environment variable's."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; None takes the provider's usual one. The key goes to lm's
    server alone (api_base or, without that, lm's provider): other models take their providers' usual ones."""

    extra: Extra | None = None
    """More parameters for each call to lm and other models of its provider, which litellm gets as they are:
    reasoning_effort=low, num_ctx=16384 (several separated by commas), or a JSON object, like {"extra_body": {"top_k":
    20}}. No keys."""

    adapter: AdapterName = "auto"
    """Layout of prompts and answers: chat (marked sections), json (with a schema where the server takes one), xml; auto
    takes the first one that the model answers a probe call in."""

    max_tokens: Annotated[int, at_least(16)] = 2000
    """Longest answer in tokens; an answer that is cut off is asked for once more with twice as many."""

    timeout_s: Positive = 120.0
    """Seconds to wait for one answer."""

    retries: Natural = 5
    """How often a call is repeated after a rate limit, a server error, a timeout or a lost connection."""

    budget_usd: Positive | None = None
    """Most USD that the calls of a run may cost, all roles and restarts together; None is no limit. Each call is
    reserved before it is made. A model of unknown price is refused."""

    budget_tokens: Count | None = None
    """Most tokens that the calls of a run may use, all roles and restarts together; None is no limit."""

    record: Path | None = None
    """Cassette: file to which every answer of a language model is added, one JSON line a call, without keys. The same
    command with lm=recorded:FILE goes the same way again, without a key and free of charge."""

    seed: Seed = 0
    """Seed of every random choice."""


@options
class LMOptions(CallOptions):
    """Which language model is called, and how."""

    lm: ModelName = "recorded:demo"
    """Language model: any litellm model string (openai/gpt-4.1-mini, ollama_chat/qwen3:8b, hosted_vllm/NAME), with its
    key in the environment; recorded:demo or recorded:xquad-sentences, which replay what was recorded for the bundled
    corpora; or recorded:FILE, which replays a cassette (`record`)."""


Send = Literal["calls", "batch", "files"]


@options
class SendOptions:
    """How calls travel, and what they may cost unasked."""

    send: Send = "calls"
    """calls: each by itself, answered at once. batch: many together through the provider's batch endpoint, at its batch
    price, within a day. files: as OUT/requests/*.jsonl in OpenAI's batch format, whose answers are awaited as
    OUT/responses/*.jsonl; no network."""

    batch_size: Annotated[int, between(1, 50_000)] = 10_000
    """Most requests in one batch, and most rows at work at once with send=batch or files."""

    wait: bool = True
    """With send=batch or files: go on until every row is done. no-wait leaves once all that can be asked is out; the
    same command goes on later."""

    cancel: bool = False
    """Cancel this run folder's batches that are out, and do nothing else."""

    confirm_above_usd: NotNegative = 5.0
    """On a terminal, a run that is forecast to cost more USD than this is asked back before it starts."""


@options
class JudgingOptions(CallOptions):
    """How passages are judged, and for which rows."""

    verifier_lm: str | None = None
    """Verifier's model string; None takes the generator's."""

    verifier_api_base: str | None = None
    """Address for verifier_lm; None takes api_base where it is of lm's provider, else the provider's own; "provider" is
    the provider's own in any case."""

    profile: str = "generic"
    """Corpus profile (what counts as relevant, how passages read): one that ships (generic, encyclopaedic_qa,
    multi_hop_qa, web_search, scientific_claims, scientific_topics, help_centre) or a .toml file, as `profile` drafts
    one."""

    max_rows: Count | None = None
    """Use only the first this many rows; None uses all."""

    verify: VerifyBy | None = None
    """How passages are judged: line-up (all of a row and its known positive in one call, shuffled and unlabelled) or
    one-by-one. None is line-up; the naive method then judges nothing. A compiled program fits its own setting."""

    concurrency: Annotated[int, between(1, 1024)] = 16
    """Most calls in flight at once; fewer while the server says that it is too many."""


@options
class FallbackOptions:
    """What is done about calls that came to nothing."""

    lm_fallbacks: str | None = None
    """Model strings, separated by commas, that get a call which lm gave up on, in this order; None for none."""

    verifier_fallbacks: str | None = None
    """The same for the verifier; None for none."""

    malformed_retries: Natural = 2
    """How often an answer that cannot be read is asked for again."""


def read_band(text: str | None) -> tuple[float, float]:
    """The two ends of LOW..HIGH, None for 0.01..1. Raises ValueError unless 0 <= LOW <= HIGH <= 1 and HIGH > 0."""
    low, high = (float(end) for end in (text or "0.01..1").split(".."))
    if not (0 <= low <= high <= 1 and high > 0):
        raise ValueError(f"not a band of shares: {text}")
    return low, high


def _is_band(text: str) -> bool:
    try:
        read_band(text)
    except ValueError:
        return False
    return True


BandText = Annotated[str, Bound("LOW..HIGH, two shares from 0 to 1 like 0.01..0.9", _is_band)]


@options
class RankingOptions:
    """The temperature at which a retriever ranks."""

    ranking_temperature: Positive = 0.05
    """Temperature of the InfoNCE softmax whose weights are the signal; take the one that the retriever trains with."""


@options
class WritingOptions(JudgingOptions):
    """How negatives are written and verified."""

    keep_at_least: Share = 0.0
    """Share of a row's other requirements (0 to 1) that a negative must keep to be accepted; 1 takes those alone that
    break exactly one."""

    negatives_per_row: Count = 4
    """At most this many generated negatives are tried for a row."""

    batched: bool = True
    """Write all violations of a row in one call: fewer and cheaper requests, but one bad answer loses them all. A
    compiled program fits the setting that it was compiled with."""

    temperature: Temperature = 0.7
    """Sampling temperature of the generator; the verifier's is 0. Reasoning models get none."""


@options
class RoleOptions(WritingOptions, LMOptions):
    """Which language models write and judge, and how."""


@options
class ReflectionOptions:
    """Which language model writes new instructions."""

    reflection_lm: str | None = None
    """Model that reads the feedback and writes new instructions, at temperature 1 and in up to four times max-tokens.
    gepa needs one; mipro without one searches only over demonstrations; bootstrap uses none."""

    reflection_api_base: str | None = None
    """Address for reflection_lm; as verifier_api_base."""


# What a search or a comparison may be given for itself, and a synthesis that follows on it should not take over.
OF_A_RUN = ("max_rows", "concurrency", "budget_usd", "budget_tokens")


@options
class FeedbackOptions(RankingOptions, WritingOptions):
    """The retriever that judges what was written."""

    retriever: str = "bundled:all-MiniLM-L6-v2"
    """The retriever whose InfoNCE weights are the feedback: bundled:NAME, a model folder or a hub name."""
