"""A synthesised set as a data set folder: load_dataset reads it, the card says how it arose."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import InputError
from data.base.files import folder_lock
from data.formats.convert import read_format
from data.readers.source import read_source
from data.row_files import read_rows
from programs.__main__ import main
from programs.synthesis import dataset
from programs.synthesis.config import SynthesizeConfig
from programs.synthesis.dataset import DatasetConfig, write_dataset
from programs.synthesis.run import synthesize
from tests.fakes.fake_hub import TOKEN, FakeHub
from tests.fakes.fake_model import FakeModel
from tests.programs.conftest import Rows, Run


@pytest.fixture(scope="module")
def demo_run(demo_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthesis")
    synthesize(SynthesizeConfig(rows=demo_rows, out=out, max_rows=5, canary_share=1.0))
    return out


def test_load_dataset_reads_it(demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(dataset, "_SHARD_ROWS", 2)
    folder = write_dataset(DatasetConfig(run=demo_run, out=tmp_path / "set", licence="cc0-1.0"))
    shards = sorted((folder / "data").iterdir())
    assert [path.name for path in shards] == [f"train-0000{number}.parquet" for number in range(3)]
    originals = list(read_rows(demo_run / "rows.jsonl"))
    assert [row for path in shards for row in read_format(path, "rows")] == originals
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["query"] == [row.query for row in originals]
    assert loaded[0]["negatives"][0]["verdict"]["answers_query"] is False
    # And as a source of our own: the pairs in it.
    assert set(read_source(str(folder), "train").queries.values()) == {row.query for row in originals}


def test_the_card_says_how_it_arose(demo_run: Path, tmp_path: Path) -> None:
    import huggingface_hub

    config = DatasetConfig(
        run=demo_run, out=tmp_path / "set", licence="cc0-1.0", source="Written for the demo.", title="Demo"
    )
    card = huggingface_hub.DatasetCard.load(write_dataset(config) / "README.md")
    assert (card.data.license, card.data.pretty_name, card.data.size_categories) == ("cc0-1.0", "Demo", ["n<1K"])
    accepted = sum(len(row.of_source("generated")) for row in read_rows(demo_run / "rows.jsonl"))
    for words in (
        "- generator: recorded:demo",
        "- verifier: recorded:demo",
        "- program: uncompiled",
        f"| accepted | {accepted} |",
        "misses 0 of 5 known positives",
        "The bound assumes that it misses relevant candidates as often as known positives",
        "`cc0-1.0`. Written for the demo.",
    ):
        assert words in card.text, words
    assert str(demo_run) not in card.content
    # The folder of the whole job does as well.
    shutil.copytree(demo_run, tmp_path / "job" / "synthesis")
    again = replace(config, run=tmp_path / "job", out=tmp_path / "again")
    assert (write_dataset(again) / "README.md").read_text(encoding="utf-8") == card.content


def test_the_card_of_a_naive_run_claims_no_verifier(made_rows: Rows, tmp_path: Path, run: Run) -> None:
    with FakeModel() as server:
        # Its layout is asked for all the same.
        run(server, made_rows(2), method="naive", verifier_lm="openai/other", adapter="auto")
    folder = write_dataset(DatasetConfig(run=tmp_path / "out", out=tmp_path / "set", licence="unknown"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "- verifier: none" in text and "not verified" in text and "verified blind" not in text


def test_the_card_of_a_naive_run_that_is_judged_claims_no_broken_requirement(
    made_rows: Rows, tmp_path: Path, run: Run
) -> None:
    with FakeModel() as server:
        run(server, made_rows(2), method="naive", verify="line-up")
    folder = write_dataset(DatasetConfig(run=tmp_path / "out", out=tmp_path / "set", licence="unknown"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "written by one plain prompt and verified blind" in text and "breaks one requirement" not in text
    assert "- verifier: openai/fake" in text


def test_the_card_is_about_the_rows_not_about_a_later_start_that_failed(
    made_rows: Rows, tmp_path: Path, run: Run
) -> None:
    with FakeModel() as server:
        run(server, made_rows(2), profile="web_search")
        with pytest.raises(InputError, match="budget of 10 tokens is spent"):
            run(server, made_rows(2), profile="help_centre", budget_tokens=10, again=True)
    folder = write_dataset(DatasetConfig(run=tmp_path / "out", out=tmp_path / "set", licence="unknown"))
    assert "- corpus profile: web_search" in (folder / "README.md").read_text(encoding="utf-8")


def test_two_at_once_do_not_mix_their_files(demo_run: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(InputError, match="another process is working in this folder"):
        write_dataset(DatasetConfig(run=demo_run, out=tmp_path, licence="cc0-1.0"))


def test_made_again_it_keeps_files_of_the_users(demo_run: Path, tmp_path: Path) -> None:
    config = DatasetConfig(run=demo_run, out=tmp_path / "set", licence="cc0-1.0")
    own = write_dataset(config) / "data" / "dev.parquet"
    own.write_text("mine", encoding="utf-8")
    write_dataset(config)
    assert own.read_text(encoding="utf-8") == "mine"


def test_what_cannot_be_a_data_set_is_refused(demo_run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        write_dataset(DatasetConfig(run=demo_run, out=tmp_path / "full", licence="cc0-1.0"))
    with pytest.raises(InputError, match=r"config\.json"):
        write_dataset(DatasetConfig(run=tmp_path, out=tmp_path / "set", licence="cc0-1.0"))
    with pytest.raises(InputError, match="licence"):
        DatasetConfig(run=demo_run, out=tmp_path / "set", licence="my own: see below")
    with pytest.raises(InputError, match="ORG/NAME"):
        DatasetConfig(run=demo_run, out=tmp_path / "set", licence="mit", hub="a/b/c")
    assert not (tmp_path / "set").exists()


def test_push_to_a_hub(
    demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert main(["dataset", f"run={demo_run}", f"out={tmp_path / 'set'}", "licence=cc0-1.0", "hub=org/rows"]) == 0
        monkeypatch.delenv("HF_TOKEN")
        assert main(["dataset", f"run={demo_run}", f"out={tmp_path / 'other'}", "licence=cc0-1.0", "hub=org/rows"]) == 2
    assert not (tmp_path / "other").exists()
    assert "on the hub: http://127.0.0.1" in capsys.readouterr().out
    assert {name for name in hub.files["org/rows"] if name != ".gitattributes"} == {
        "README.md",
        "data/train-00000.parquet",
    }
