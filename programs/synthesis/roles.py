"""The models of a run in their roles: resolved, checked, opened, and put into the program; and the run's key."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import dspy

from data.base.errors import InputError
from data.base.text import content_id
from programs.lm.adapters import LAYOUTS, make_adapter
from programs.lm.batches.calls import Waves
from programs.lm.budget import Budget
from programs.lm.faults import PASSING_LOSSES, UNREADABLE, CallError, RunStoppedError
from programs.lm.models import Models, ModelSpec, abilities, log_roles
from programs.lm.pacing import ConcurrencyByPlace
from programs.lm.role_lm import RoleLM
from programs.lm.servers.cassette import recorder
from programs.modules.naive import NAIVE, NaiveWriter
from programs.modules.row_judge import VERIFY, RowJudge
from programs.modules.row_program import RowProgram
from programs.modules.saved import load_program
from programs.modules.signatures import ExtractRequirements, VerifyIrrelevance
from programs.modules.synthesizer import Synthesizer
from programs.modules.verifier import ACCEPTANCE_RULE
from programs.options import (
    AdapterName,
    CallOptions,
    FallbackOptions,
    JudgingOptions,
    ReflectionOptions,
    RoleOptions,
    SendOptions,
)
from programs.profiles.profile import CorpusProfile
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.store import RunStore

# How finished rows name a program that was not compiled.
UNCOMPILED = "uncompiled"
# The most that each role is asked for: a server that refuses a schema, or a model that is too weak for it, shows here.
_TEXTS = {
    "relevance": "A passage is relevant when it states what was asked.",
    "query": "how long do opened oats keep",
    "passage": "Oats\nStore oats in a dry place. An opened packet keeps for eight weeks.",
}
_PROBES: Mapping[str, tuple[type[dspy.Signature], Mapping[str, Any]]] = {
    "generator": (ExtractRequirements, _TEXTS | {"num_ways": 2}),
    "verifier": (
        VerifyIrrelevance,
        _TEXTS | {"requirements": ["1. is about oats", "2. says how long they keep once opened"]},
    ),
}
Specs = Mapping[str, Sequence[ModelSpec]]


def build_program(config: SynthesizeConfig) -> tuple[RowProgram, str]:
    """The program without its models, and how records name it."""
    if config.method == "verify":
        return RowJudge(malformed_retries=config.malformed_retries, verify=config.verify or "line-up"), VERIFY
    if config.method == "naive":
        return NaiveWriter(
            negatives_per_row=config.negatives_per_row,
            malformed_retries=config.malformed_retries,
            verify=config.verify,
        ), NAIVE
    program = Synthesizer(
        negatives_per_row=config.negatives_per_row,
        repairs=config.repairs,
        malformed_retries=config.malformed_retries,
        batched=config.batched,
        verify=config.verify or "line-up",
        keep_at_least=config.keep_at_least,
    )
    return program, UNCOMPILED if config.program is None else load_program(config.program, program)


def resolve_roles(stack: ExitStack, config: RoleOptions, budget: Budget) -> dict[str, list[ModelSpec]]:
    """The checked models of generator, verifier and, where one is named, reflector, each followed by its fallbacks.

    Servers that are started for `config` stop when `stack` closes. Raises InputError that names the flag when a model
    cannot be used, or has no price that `budget` could be kept by.
    """
    models = Models(stack, config)
    in_batches = isinstance(config, SendOptions) and config.send != "calls"
    fallbacks = config if isinstance(config, FallbackOptions) else FallbackOptions()
    verifier, verifier_flag = config.verifier_lm or config.lm, "verifier-lm" if config.verifier_lm else "lm"
    specs: dict[str, list[ModelSpec]] = {}

    def resolve(role: str, flag: str, name: str, api_base: str | None, temperature: float) -> None:
        spec = models.resolve(name, flag=flag, temperature=temperature, api_base=api_base)
        if in_batches:
            spec = replace(spec, in_batches=True)
        budget.check_priced(spec, flag)
        specs.setdefault(role, []).append(spec)

    def resolve_fallbacks(role: str, flag: str, names: str | None, temperature: float) -> None:
        for name in (names or "").split(","):
            if name.strip():
                resolve(role, flag, name.strip(), None, temperature)

    resolve("generator", "lm", config.lm, None, config.temperature)
    resolve_fallbacks("generator", "lm-fallbacks", fallbacks.lm_fallbacks, config.temperature)
    resolve("verifier", verifier_flag, verifier, config.verifier_api_base, 0.0)
    resolve_fallbacks("verifier", "verifier-fallbacks", fallbacks.verifier_fallbacks, 0.0)
    if isinstance(config, ReflectionOptions) and config.reflection_lm is not None:
        resolve("reflector", "reflection-lm", config.reflection_lm, config.reflection_api_base, 1.0)
    log_roles(specs)
    return specs


def open_roles(
    program: RowProgram,
    specs: Specs,
    config: JudgingOptions,
    *,
    store: RunStore,
    budget: Budget,
    limits: ConcurrencyByPlace | None = None,
    layouts: Mapping[str, AdapterName] | None = None,
    waves: Waves | None = None,
) -> tuple[dict[str, RoleLM], Mapping[str, AdapterName]]:
    """Open the models of each role and put generator and verifier, each with its layout, into `program`.

    Calls are limited to `config.concurrency` at each place where no `limits` are given, and layouts are probed for.
    Returns the models by role, and the layouts.
    """
    limits = limits or ConcurrencyByPlace(config.concurrency)

    def open_model(role: str, number: int, spec: ModelSpec, fallbacks: tuple[RoleLM, ...] = ()) -> RoleLM:
        # A batch takes whatever it is given: only calls of their own are limited.
        limit, sender = (limits.of(spec), None) if waves is None else (None, waves.sender(role, spec))
        return RoleLM(role, spec, config.retries, limit, store, config.seed + number, budget, fallbacks, sender)

    lms: dict[str, RoleLM] = {}
    for role, (first, *others) in specs.items():
        fallbacks = tuple(open_model(role, number, spec) for number, spec in enumerate(others, start=1))
        lms[role] = open_model(role, 0, first, fallbacks)
    if layouts is None:
        layouts = {
            role: choose_adapter(config.adapter, lms[role], store, probes=waves is None)
            for role in ("generator", "verifier")
        }
    adapters = {role: make_adapter(layout, lms[role].spec) for role, layout in layouts.items()}
    program.use(
        generator=lms["generator"],
        verifier=lms["verifier"],
        generator_adapter=adapters["generator"],
        verifier_adapter=adapters["verifier"],
    )
    return lms, layouts


def complete_cassette(config: CallOptions, store: RunStore, *, whole_folder: bool = False) -> None:
    """Add to the run's cassette, if it has one, what earlier starts were answered, recorded or not: finished work is
    not asked for again. `whole_folder` as `RunStore.said` takes it."""
    if config.record is not None:
        recorder(config.record).complete(store.said(whole_folder=whole_folder))


def known_adapter(wanted: AdapterName, spec: ModelSpec, store: RunStore, *, probes: bool) -> AdapterName | None:
    """The layout for this model where nobody need be asked: the wanted one, or for "auto" the one that was found
    before; where nothing `probes`, json for models that take a JSON schema."""
    if wanted != "auto":
        return wanted
    if spec.name.startswith("recorded:"):
        # Recorded answers come in any layout, and there are none to a probe.
        return "chat"
    known = store.get_note(f"adapter:{spec.name}")
    if known in LAYOUTS:
        return known
    # The answer to a probe would take as long as a batch.
    return None if probes else "json" if abilities(spec)["supports_response_schema"] else "chat"


def choose_adapter(wanted: AdapterName, lm: RoleLM, store: RunStore, *, probes: bool) -> AdapterName:
    """The known layout for this model, else the first that it answers a probe in.

    Models that take a JSON schema are probed with json first. The finding is kept in the store, so that a run that goes
    on uses the same one. Raises InputError when the model follows no layout, or when nothing answers.
    """
    if (known := known_adapter(wanted, lm.spec, store, probes=probes)) is not None:
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
    signature, inputs = _PROBES[lm.role]
    predictor = dspy.Predict(signature)
    predictor.lm = lm
    with dspy.context(adapter=make_adapter(name, lm.spec)):
        try:
            predictor(**inputs)
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


def work_key(
    program: RowProgram,
    profile: CorpusProfile,
    specs: Specs,
    layouts: Mapping[str, str | None],
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
        config.verify_mined,
        ACCEPTANCE_RULE,
    ]
    # Left out where they change nothing, so that work which was finished before they were there counts.
    if config.keep_at_least:
        options.append({"keep_at_least": config.keep_at_least})
    if program.scorer is not None:
        options.append({"scorer": list(program.scorer.key)})
    shown = [profile.relevance, profile.style, profile.pool, profile.shown_of_pool]
    return content_id(json.dumps([predictors, roles, options, *shown], sort_keys=True))
