"""The model card: what it says; the folder still loads everywhere with the same vectors; the way to the hub."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from data.base.errors import InputError
from data.base.files import write_json
from data.records import Negative, Passage, Row
from data.row_files import write_rows
from tests.fakes.fake_hub import TOKEN, FakeHub
from tests.trainer.conftest import TEXTS
from tests.trainer.runs import small_run
from trainer.config import TrainConfig
from trainer.encoder.encoder import Encoder
from trainer.loop import train
from trainer.publish.model_card import add_evaluations, base_model, command, shown_path
from trainer.publish.publish import PublishConfig, publish


def some_rows() -> list[Row]:
    return [
        Row(
            query_id=f"q{i}",
            query=f"how long can we restore {i}",
            positives=(Passage(id=f"p{i}", text=f"{i} days"),),
            negatives=(
                Negative(text=f"refund {i}", source="mined"),
                Negative(
                    text=f"{i} months", source="generated", generator="openai/x|y", program="p@1",
                    disruption="attribute_shift",
                ),
            ),
        )
        for i in range(4)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_rows(folder / "synthesis" / "rows.jsonl", some_rows())
    usage = {"requests": 9, "tokens": 1234, "cost_in_words": "0.0100 USD"}
    write_json(folder / "synthesis" / "summary.json", {"usage": usage})
    train(
        TrainConfig(
            rows=str(folder / "synthesis" / "rows.jsonl"), out=str(folder / "train"), model=str(tiny_bert),
            lr=1e-3, batch_size=2, device="cpu",
        )
    )  # fmt: skip
    return folder / "train" / "model"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    folder = tmp_path / "named" / "model"
    folder.parent.mkdir()
    folder.symlink_to(trained, target_is_directory=True)
    card = (trained / "README.md").read_bytes()
    yield folder
    (trained / "README.md").write_bytes(card)


def test_the_card_says_what_was_done(trained: Path) -> None:
    card = ModelCard.load(trained / "README.md")
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert card.data.base_model is None  # a local folder is no name on the hub
    for words in (
        "4 queries with 4 mined hard negatives and 4 that a language model wrote",
        r"- written by: openai/x\|y (4)",
        "- kind of violation: attribute_shift (4)",
        "InfoNCE (temperature 0.05",
        "| lr | 0.001 |",
        "--batch-size=2",
        "--rows=rows.jsonl",
        "9 requests, 1234 tokens; 0.0100 USD",
        "mean pooling over the tokens, then division by the length",
    ):
        assert words in card.text, words
    # Nothing of this machine's folders.
    assert str(trained.parent.parent) not in card.content


@pytest.mark.parametrize("summary", ["[1]", "{", '{"usage": {"tokens": 5}}', '{"usage": null}'])
def test_a_summary_of_something_else_beside_the_rows_does_not_stop_a_training(
    summary: str, tiny_bert: Path, tmp_path: Path
) -> None:
    config = small_run(tiny_bert, tmp_path, some_rows(), epochs=1)
    (tmp_path / "summary.json").write_text(summary)
    assert "language model:" not in ModelCard.load(train(config).model_folder / "README.md").text


def test_it_loads_everywhere_with_the_same_vectors(trained: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    ours = Encoder.load(str(trained), device="cpu").encode(TEXTS, "query")
    np.testing.assert_allclose(SentenceTransformer(str(trained), device="cpu").encode(TEXTS), ours, atol=1e-5)
    tokenizer, transformer = AutoTokenizer.from_pretrained(trained), AutoModel.from_pretrained(trained).eval()
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = transformer(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    theirs = torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


def evaluation(path: Path, model: Path, mean: float, **options: object) -> Path:
    interval = {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}
    config = {"model": str(model), "data": "/somewhere/my_beir", "split": "test"} | options
    write_json(path, {"config": config, "num_queries": 7, "intervals": {"nDCG@10": interval}})
    return path


def test_evaluations_take_the_place_of_earlier_ones(model: Path, tmp_path: Path) -> None:
    for mean in (0.5, 0.75):
        add_evaluations(model, [evaluation(tmp_path / "eval.json", model, mean)], licence="apache-2.0")
    card = ModelCard.load(model / "README.md")
    assert card.text.count("nDCG@10 |") == 1
    assert "| my_beir (test) | nDCG@10 | 0.750 | 0.700 to 0.800 | 7 |" in card.text
    assert "## Cost" in card.text
    assert card.data.license == "apache-2.0"
    (found,) = card.data.eval_results
    assert (found.dataset_name, found.metric_value) == ("my_beir (test)", 0.75)
    assert "0.700 to 0.800" in found.metric_name


def test_what_was_measured_with_other_settings_says_so(model: Path, tmp_path: Path) -> None:
    files = [
        evaluation(tmp_path / "whole.json", model, 0.75, dimensions=None, query_prompt=None),
        evaluation(tmp_path / "cut.json", model, 0.5, dimensions=8, query_prompt="find | "),
    ]
    add_evaluations(model, files)
    card = ModelCard.load(model / "README.md")
    names = ["my_beir (test)", "my_beir (test, dimensions=8, query_prompt='find \\| ')"]
    assert [found.dataset_name for found in card.data.eval_results] == names
    assert all(f"| {name} | nDCG@10 |" in card.text for name in names)


def test_what_was_measured_by_the_name_of_the_run_is_measured_of_its_model(trained: Path, tmp_path: Path) -> None:
    before = (trained / "README.md").read_bytes()
    publish(PublishConfig(model=trained.parent, evaluations=(evaluation(tmp_path / "e.json", trained.parent, 0.5),)))
    assert "| my_beir (test) | nDCG@10 | 0.500" in ModelCard.load(trained / "README.md").text
    (trained / "README.md").write_bytes(before)


def test_a_card_that_is_no_text_is_refused(model: Path, tmp_path: Path) -> None:
    before = (model / "README.md").read_bytes()
    (model / "README.md").write_bytes(b"\xff" + before)
    with pytest.raises(InputError, match="is no model card"):
        publish(PublishConfig(model=model, evaluations=(evaluation(tmp_path / "e.json", model, 0.5),)))
    (model / "README.md").write_bytes(before)


def test_what_is_no_evaluation_or_no_model_is_refused(model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "other.json", {"a": 1})
    with pytest.raises(InputError, match="no result of `just eval"):
        add_evaluations(model, [tmp_path / "other.json"])
    with pytest.raises(InputError, match=r"no README\.md"):
        add_evaluations(tmp_path, [])
    with pytest.raises(InputError, match="which is not"):
        add_evaluations(model, [evaluation(tmp_path / "eval.json", tmp_path / "another", 0.5)])
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    with pytest.raises(InputError, match="no place for measures"):
        add_evaluations(model, [evaluation(tmp_path / "eval.json", model, 0.5)])
    with pytest.raises(InputError, match="is no folder"):
        publish(PublishConfig(model=tmp_path / "nowhere"))
    with pytest.raises(InputError, match="ORG/NAME"):
        PublishConfig(model=model, hub="name")


def test_the_command_is_what_differs_from_the_defaults() -> None:
    config = TrainConfig(
        rows="runs/my rows.jsonl", out="/abs/place/out", matryoshka=(8, 16), gradient_checkpointing=True
    )
    assert command(config).split(" \\\n  ") == [
        "python -m trainer train", "--rows='runs/my rows.jsonl'", "--out=out", "--gradient-checkpointing",
        "--matryoshka 8 16",
    ]  # fmt: skip
    assert command(replace(config, restart=True)) == command(config)
    assert (shown_path("a/b"), shown_path("/a/b")) == ("a/b", "b")
    assert base_model("bundled:all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
    assert base_model("org/name") == "org/name"


def test_push_to_a_hub(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        config = PublishConfig(
            model=model, hub="org/retriever", evaluations=(evaluation(tmp_path / "e.json", model, 0.5),)
        )
        monkeypatch.delenv("HF_TOKEN", raising=False)
        with pytest.raises(InputError, match="HF_TOKEN"):
            publish(config)
        assert hub.requests == []
        monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
        with pytest.raises(InputError, match="the hub refused org/retriever") as refused:
            publish(config)
        assert "hf_of_someone_else" not in str(refused.value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert publish(config) == f"{hub.endpoint}/org/retriever"
    (created,) = hub.created
    assert created["name"] == "retriever" and "private" in json.dumps(created)
    files = hub.files["org/retriever"]
    assert {name for name in files if not name.startswith(".")} == {
        path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()
    }
    assert b"0.500" in files["README.md"]
    assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert TOKEN.encode() not in b"".join(files.values())
    assert json.loads(files["modules.json"])[0]["type"].endswith("Transformer")
