"""Every command's options, frozen against sprawl and documented; `--help` loads none of the heavy libraries."""

import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import docstring_parser
import pytest

from data.base.arguments import assigned_texts
from data.base.cli import run_command
from data.base.errors import InputError
from data.base.options import Count, NotNegative, options

# A new option is a decision: add it here on purpose. What several commands take is written once.
SHARED = {
    "Recipe": "epochs batch-size lr temperature in-batch dropout max-tokens-per-step",
    "EncoderOptions": "model revision max-length dimensions query-prompt document-prompt device precision",
    "HubOptions": "licence hub private",
    "CallOptions": (
        "api-base api-key-env extra adapter max-tokens timeout-s retries budget-usd budget-tokens record seed"
    ),
    "LMOptions": "lm",
    "SendOptions": "send batch-size wait cancel confirm-above-usd",
    "JudgingOptions": "verifier-lm verifier-api-base profile max-rows verify concurrency",
    "RankingOptions": "ranking-temperature",
    "WritingOptions": "keep-at-least negatives-per-row batched temperature",
    "RowRunOptions": (
        "verify-mined mined-relevant canary-share max-miss-rate accept-unusable-verifier again agreement-sample"
    ),
    "FallbackOptions": "lm-fallbacks verifier-fallbacks malformed-retries",
    "FeedbackOptions": "retriever",
    "ReflectionOptions": "reflection-lm reflection-api-base",
}
OF_SYNTHESIS = [
    "FallbackOptions", "RankingOptions", "SendOptions", "RowRunOptions", "WritingOptions", "JudgingOptions",
    "LMOptions", "CallOptions",
]  # fmt: skip
SYNTHESIZE = (
    "rows out method program repairs retriever hardness judge-twice-above engine ray-actors ray-address style-passages"
)
ABLATE = (
    "rows test out naive-rows dev dev-split test-split seeds num-mined entropy-weights generated-weights "
    "grade-sharpness keep-models slices transfer controls"
)
OWN = {
    "data demo": ([], "out"),
    "data leakage": ([], "rows eval split skip-bad-rows"),
    "data convert": ([], "input out source to num-negatives skip-bad-rows force"),
    "trainer mine": (
        ["EncoderOptions"],
        (
            "data out split source rescore num-negatives rank-from rank-to max-score absolute-margin relative-margin "
            "margin-anchor sampling seed backend cache skip-bad-rows corpus query positive title force"
        ),
    ),
    "trainer train": (
        ["Recipe", "EncoderOptions"],
        (
            "rows out dev dev-split grad-accumulation warmup-ratio weight-decay clip "
            "preset relevance grade-sharpness grade-mined mask-above generated-weight "
            "entropy-weight entropy-temperature max-mined max-generated remine-every remine-like "
            "eval-every checkpoint-every keep-checkpoints patience "
            "gradient-checkpointing "
            "lora-rank matryoshka tracking seed restart skip-bad-rows"
        ),
    ),
    "trainer publish": (["HubOptions"], "model evaluations"),
    "programs try": (["WritingOptions", "JudgingOptions", "LMOptions", "CallOptions"], "query passage"),
    "programs synthesize": (OF_SYNTHESIS, SYNTHESIZE),
    "programs prompts": (OF_SYNTHESIS, f"{SYNTHESIZE} write force"),
    "programs verify": (
        ["FallbackOptions", "SendOptions", "RowRunOptions", "JudgingOptions", "LMOptions", "CallOptions"],
        "rows out",
    ),
    "programs optimize": (
        [
            "FeedbackOptions",
            "ReflectionOptions",
            "RankingOptions",
            "WritingOptions",
            "JudgingOptions",
            "LMOptions",
            "CallOptions",
        ],
        "rows out optimizer parts rollouts demos dev-share held-out-share style-passages",
    ),
    "programs dataset": (["HubOptions"], "run out source title cassette force"),
    "programs queries": (
        ["FallbackOptions", "JudgingOptions", "LMOptions", "CallOptions"],
        "corpus out samples queries-per-passage temperature retriever round-trip dev-percent",
    ),
    "programs profile": (["LMOptions", "CallOptions"], "data split out overwrite sample"),
    "evals eval": (
        ["EncoderOptions"],
        "data split baseline out per-query rows slice-measure skip-bad-rows corpus query positive title force",
    ),
    "evals demo": (["Recipe", "LMOptions", "CallOptions"], "out model num-mined"),
    "evals ablate": (["Recipe", "EncoderOptions"], ABLATE),
    "evals demo-real": (["Recipe", "EncoderOptions"], ABLATE),
    "evals diagnose": (
        ["EncoderOptions"],
        (
            "run rows baseline out audit temperature grade-sharpness max-rows parameter-rows permutations seed "
            "skip-bad-rows force"
        ),
    ),
    "evals pipeline": ([], "config out data dev model lm step-options"),
    "evals report": ([], "run out title force"),
    "evals compare": (
        ["SendOptions", "FeedbackOptions", "RankingOptions", "WritingOptions", "JudgingOptions", "CallOptions"],
        "rows lms out",
    ),
    "evals probe": (["LMOptions", "CallOptions"], "verify"),
}


def config_of(command: str) -> type[Any]:
    room, name = command.split()
    kind: type[Any] = import_module(f"{room}.__main__").COMMANDS[name][0]
    return kind


def test_no_command_is_left_out() -> None:
    rooms = {room: import_module(f"{room}.__main__").COMMANDS for room in ("data", "trainer", "programs", "evals")}
    assert OWN.keys() == {f"{room} {name}" for room, commands in rooms.items() for name in commands}


@pytest.mark.parametrize("command", OWN)
def test_options_are_frozen(command: str) -> None:
    inherits, own = OWN[command]
    frozen = " ".join([own, *(SHARED[kind] for kind in inherits)]).replace("-", "_").split()
    assert {field.name for field in fields(config_of(command))} == set(frozen)


@pytest.mark.parametrize("command", OWN)
def test_every_option_is_documented(command: str) -> None:
    kind = config_of(command)
    parsed = [docstring_parser.parse_from_object(each).params for each in kind.__mro__[:-1]]
    documented = {param.arg_name: param.description for params in parsed for param in params}
    for field in fields(kind):
        assert len(documented.get(field.name) or "") > 10, field.name


@pytest.mark.parametrize("command", OWN)
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    room, _, name = command.partition(" ")
    with pytest.raises(SystemExit) as ended:
        run_command(import_module(f"{room}.__main__").COMMANDS, [name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: just {name} ")
    assert {field.name.replace("_", "-") for field in fields(config_of(command))} <= set(
        re.findall(r"--([a-z-]+)", shown)
    )


@pytest.mark.parametrize("command", ["programs optimize", "programs profile", "evals probe"])
def test_what_takes_no_batches_says_so(command: str) -> None:
    with pytest.raises(InputError, match=r"^--send: .* takes no batches") as raised:
        assigned_texts([config_of(command)], ["send=batch"], "help")
    assert "\n" not in str(raised.value)


def test_help_loads_no_heavy_library() -> None:
    code = "import sys, data.__main__, trainer.__main__, programs.__main__, evals.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers", "dspy", "litellm", "numpy", "sklearn"} & set(loaded) == set()


@options
class Shared:
    sizes: tuple[Count, ...] = ()
    """Sizes."""

    margin: NotNegative | None = None
    """Margin."""


@options
class Special(Shared):
    name: str
    """Name."""

    margin: NotNegative | None = 0.5

    def __post_init__(self) -> None:
        if self.name == "none" and self.sizes:
            raise InputError("--sizes: none has none")


def test_own_options_come_first_and_only_the_default_differs() -> None:
    assert [field.name for field in fields(Special)] == ["name", "margin", "sizes"]
    assert Special(name="a") == Special(name="a", sizes=(), margin=0.5)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"sizes": (2, 0)}, r"--sizes: expected at least 1, got \(2, 0\)"),
        ({"margin": -1.0}, "--margin: expected a number of at least 0, got -1.0"),
        ({"margin": float("nan")}, "--margin: expected a number of at least 0, got nan"),
        ({"name": "none", "sizes": (1,)}, "--sizes: none has none"),
    ],
)
def test_a_value_out_of_bounds_names_its_flag(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        Special(**{"name": "a"} | values)
    assert Special(name="none", margin=None).margin is None


def test_rules_hold_for_a_class_that_inherits_them() -> None:
    @options
    class Another(Special):
        place: str = ""

    with pytest.raises(InputError, match="--sizes: none has none"):
        Another(name="none", sizes=(1,))


def test_what_a_class_says_without_a_default_has_to_be_given_whatever_it_inherits() -> None:
    @options
    class Needed(Shared):
        margin: NotNegative

    with pytest.raises(TypeError, match="margin"):
        Needed()
    assert Needed(margin=1.0).margin == 1.0


@pytest.mark.parametrize(("command", "option"), [("programs dataset", "licence"), ("programs queries", "lm")])
def test_a_data_set_needs_a_licence_and_queries_a_model(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    room, _, name = command.partition(" ")
    given = [f"{field.name}=x" for field in fields(config_of(command)) if field.name in ("run", "out", "corpus")]
    assert run_command(import_module(f"{room}.__main__").COMMANDS, [name, *given]) == 2
    assert capsys.readouterr().err == f"error: expected --{option} (just {name} --help)\n"


def test_python_may_give_a_path_as_text() -> None:
    @options
    class Both:
        file: Path
        other: Path | None = None
        name: str = ""

    made = Both(file="a/b", other="c", name="d")  # type: ignore[arg-type]
    assert (made.file, made.other, made.name) == (Path("a/b"), Path("c"), "d")
