"""Roles."""

import json
from collections.abc import Mapping, Sequence

import dspy

from data.base.errors import InputError
from data.base.text import content_id
from programs.lm.adapters import LAYOUTS, make_adapter
from programs.lm.budget import Budget
from programs.lm.faults import PASSING_LOSSES, UNREADABLE, CallError, RunStoppedError
from programs.lm.meter import Journal
from programs.lm.models import Models, ModelSpec
from programs.lm.pacing import Limits
from programs.lm.role_lm import RoleLM
from programs.modules.naive import NAIVE, NaiveWriter
from programs.modules.predictors import RowProgram
from programs.modules.saved import load_program
from programs.modules.signatures import VerifyIrrelevance
from programs.modules.synthesizer import Synthesizer
from programs.options import AdapterName
from programs.profiles.profile import (
    CorpusProfile,
)
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.store import RunStore
from programs.synthesis.summary import UNCOMPILED

_PROBE = {
    "relevance": "A passage is relevant when it states what was asked.",
    "query": "how long do opened oats keep",
    "requirements": ["1. is about oats", "2. says how long they keep once opened"],
    "passage": "Oats\nStore oats in a dry place. An opened packet keeps for eight weeks.",
}


def choose_adapter(wanted: AdapterName, lm: RoleLM, store: RunStore) -> AdapterName:
    """The layout for this model: the wanted one, or for "auto" the first that it answers a probe in.

    Models that take a JSON schema are probed with json first. The finding is kept in the store, so that a run that goes
    on uses the same one. Raises InputError when the model follows no layout, or when nothing answers.
    """
    if wanted != "auto":
        return wanted
    if lm.spec.free and lm.spec.name.startswith("recorded:"):
        # Recorded answers come in any layout, and there are none to a probe.
        return "chat"
    known = store.get_note(f"adapter:{lm.spec.name}")
    if known in LAYOUTS:
        return known
    order = sorted(LAYOUTS, key=lambda name: name != "json" or not lm.supports_response_schema)
    failures = []
    for name in order:
        failure = _probe(lm, name)
        if failure is None:
            store.set_note(f"adapter:{lm.spec.name}", name)
            return name
        failures.append(f"{name}: {failure}")
    raise InputError(
        f"{lm.spec.name} answered a probe in none of the layouts {', '.join(order)} ({'; '.join(failures)}); "
        "it is too weak for this job, or name one with --adapter"
    )


def _probe(lm: RoleLM, name: AdapterName) -> str | None:
    predictor = dspy.Predict(VerifyIrrelevance)
    predictor.lm = lm
    with dspy.context(adapter=make_adapter(name, lm.spec)):
        try:
            predictor(**_PROBE)
        except UNREADABLE as error:
            if not isinstance(error, CallError):
                return "not readable"
            if error.loss in PASSING_LOSSES:
                raise RunStoppedError(
                    f"{lm.spec.name} does not answer ({error}); check that the server runs and its address is right, "
                    "then run the same command again"
                ) from None
            return str(error)
    # Whether the content is right is for the canaries to tell; here only the form counts.
    return None


def build_program(config: SynthesizeConfig) -> tuple[RowProgram, str]:
    """The program without its models, and how records name it."""
    if config.method == "naive":
        return NaiveWriter(
            negatives_per_row=config.negatives_per_row, malformed_retries=config.malformed_retries
        ), NAIVE
    program = Synthesizer(
        negatives_per_row=config.negatives_per_row,
        repairs=config.repairs,
        malformed_retries=config.malformed_retries,
        batched=config.batched,
    )
    return program, UNCOMPILED if config.program is None else load_program(config.program, program)


def resolve_roles(resolver: Models, config: SynthesizeConfig, budget: Budget) -> dict[str, list[ModelSpec]]:
    """The checked models of generator and verifier, each followed by its fallbacks.

    Raises InputError that names the flag when a model cannot be used, or has no price that `budget` could be kept by.
    """
    verifier = config.verifier_lm or config.lm
    verifier_base = config.verifier_api_base or (None if config.verifier_lm else config.api_base)
    wanted = {
        "generator": [("lm", config.lm, config.api_base), *_fallbacks("lm-fallbacks", config.lm_fallbacks)],
        "verifier": [
            ("verifier-lm" if config.verifier_lm else "lm", verifier, verifier_base),
            *_fallbacks("verifier-fallbacks", config.verifier_fallbacks),
        ],
    }
    specs: dict[str, list[ModelSpec]] = {}
    for role, models in wanted.items():
        temperature = config.temperature if role == "generator" else 0.0
        for flag, name, api_base in models:
            spec = resolver.resolve(name, flag=flag, temperature=temperature, api_base=api_base)
            budget.check_priced(spec, flag)
            specs.setdefault(role, []).append(spec)
    return specs


def _fallbacks(flag: str, names: str | None) -> list[tuple[str, str, None]]:
    return [(flag, name.strip(), None) for name in (names or "").split(",") if name.strip()]


def open_role(
    role: str,
    specs: Sequence[ModelSpec],
    *,
    limits: Limits,
    store: Journal,
    budget: Budget,
    config: SynthesizeConfig,
) -> RoleLM:
    """The role's model with its fallbacks behind it."""
    lms: list[RoleLM] = []
    for number, spec in reversed(list(enumerate(specs))):
        fallbacks = tuple(lms) if number == 0 else ()
        lms.insert(
            0, RoleLM(role, spec, config.retries, limits.of(spec), store, config.seed + number, budget, fallbacks)
        )
    return lms[0]


def work_key(
    program: RowProgram,
    profile: CorpusProfile,
    specs: Mapping[str, Sequence[ModelSpec]],
    layouts: Mapping[str, str],
    config: SynthesizeConfig,
) -> str:
    """The hash of all that shapes a row's outcome: finished work counts only for the same key."""
    predictors = {
        name: {"signature": predictor.signature.dump_state(), "demos": predictor.dump_state()["demos"]}
        for name, predictor in program.named_predictors()
    }
    roles = {role: [(spec.key, spec.temperature, spec.max_tokens) for spec in models] for role, models in specs.items()}
    options = [
        sorted(layouts.items()),
        config.negatives_per_row,
        config.repairs,
        config.malformed_retries,
        config.canary_share,
        config.seed,
    ]
    return content_id(json.dumps([predictors, roles, options, profile.relevance, profile.style], sort_keys=True))
