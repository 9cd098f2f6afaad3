import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from data.base.errors import InputError
from evals.diagnostics.artefacts import FEWEST_ROWS, find_artefacts
from evals.diagnostics.embedded_rows import GENERATED, POSITIVE, embed_rows
from evals.diagnostics.probes import auc_interval, embedding_probe, permute_within, source_information, words_probe
from evals.diagnostics.source_leak import distinct_passages, encoder_leak, leak_warnings, text_leak
from tests.evals.synthetic import TableEncoder, generated, mined, row


def labels(num_rows: int, each: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Sources and rows of `each` generated and `each` corpus passages a row."""
    return np.tile(np.repeat([True, False], each), num_rows), np.repeat(np.arange(num_rows), 2 * each)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_shuffling_keeps_the_counts_of_every_row(passages: list, seed: int) -> None:
    row_P, source_P = (np.array(values) for values in zip(*passages, strict=True))
    shuffled = permute_within(source_P, row_P, np.random.default_rng(seed))
    for number in set(row_P):
        assert shuffled[row_P == number].sum() == source_P[row_P == number].sum()


def test_shuffling_reaches_every_order() -> None:
    rng = np.random.default_rng(0)
    found = {tuple(permute_within(np.array([True, False, False]), np.zeros(3, int), rng)) for _ in range(60)}
    assert found == {(True, False, False), (False, True, False), (False, False, True)}


def test_a_score_that_is_the_source_holds_all_the_information() -> None:
    source, rows = labels(40)
    values = np.where(source, 1.0, 0.0) + np.random.default_rng(0).normal(0, 0.01, len(source))
    found = source_information(values, source, rows, num_permutations=50)
    assert found.ceiling == pytest.approx(np.log(2))
    assert found.estimate.mean == pytest.approx(found.ceiling, abs=0.02)
    assert found.estimate.low <= found.estimate.mean <= found.estimate.high
    assert found.p_value == pytest.approx(1 / 51)


def test_a_score_without_the_source_is_at_chance() -> None:
    source, rows = labels(60)
    values = np.random.default_rng(1).normal(size=len(source))
    found = source_information(values, source, rows, num_permutations=100)
    assert found.estimate.mean <= found.chance_high
    assert found.p_value >= 0.05


def test_the_query_level_alone_is_no_leak() -> None:
    """Rows with more generated passages score higher as a whole: shuffling within rows must call that chance."""
    rng = np.random.default_rng(2)
    source = np.concatenate([[True, True, True, False] if r % 2 else [True, False, False, False] for r in range(60)])
    rows = np.repeat(np.arange(60), 4)
    values = (rows % 2) * 3.0 + rng.normal(0, 0.3, len(rows))
    found = source_information(values, source, rows, num_permutations=100)
    assert found.estimate.mean > 0.05
    assert found.p_value >= 0.05


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_auc_equals_scikit_learn_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = np.concatenate([[True, False], rng.random(20) < 0.5])
    values = rng.integers(0, 5, 22).astype(float)
    found = auc_interval(values, source, rng.integers(0, 6, 22), num_resamples=10)
    assert found.mean == pytest.approx(roc_auc_score(source, values))


def test_auc_compares_only_within_a_fold() -> None:
    source, fold = np.array([True, False, True, False]), np.array([0, 0, 1, 1])
    values = np.array([10.0, 9.0, 1.0, 0.0])
    assert auc_interval(values, source, np.arange(4), fold).mean == 1.0
    assert auc_interval(values, source, np.arange(4)).mean == 0.75


def test_auc_without_a_pair_to_compare_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="no generated passage can be compared"):
        auc_interval(np.zeros(4), np.array([True, True, False, False]), np.arange(4), np.array([0, 0, 1, 1]))


def test_the_embedding_probe_finds_a_direction_and_nothing_in_noise() -> None:
    source, rows = labels(60)
    noise = np.random.default_rng(0).normal(size=(len(source), 10))
    silent = embedding_probe(noise, source, rows)
    assert silent.low < 0.5 < silent.high
    noise[:, 3] += 2 * source
    assert embedding_probe(noise, source, rows).low > 0.8


def test_no_row_is_in_both_folds() -> None:
    """Passages of a row are copies of each other: a probe that saw one would know the other's label."""
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(40), 2)
    source = np.repeat(rng.permutation(np.repeat([True, False], 20)), 2)
    vectors = np.repeat(rng.normal(size=(40, 200)), 2, axis=0)
    found = embedding_probe(vectors, source, rows)
    assert found.low < 0.5 < found.high


def test_the_word_probe_finds_a_phrase() -> None:
    source, rows = labels(30)
    words = np.random.default_rng(0).choice(["red", "green", "blue", "gold"], size=(len(source), 6))
    texts = [" ".join(line) for line in words]
    assert words_probe(texts, source, rows).high < 0.7
    given_away = [
        f"it is worth noting {text}" if is_generated else text for text, is_generated in zip(texts, source, strict=True)
    ]
    assert words_probe(given_away, source, rows).mean == 1.0


@pytest.mark.parametrize("probe", [source_information, embedding_probe])
def test_one_source_alone_is_one_clear_line(probe: object) -> None:
    source, rows = np.ones(20, bool), np.arange(20)
    values = np.zeros(20) if probe is source_information else np.zeros((20, 3))
    with pytest.raises(InputError, match="at least 5 generated and 5 corpus passages"):
        probe(values, source, rows)  # type: ignore[operator]


def test_both_sources_in_one_row_only_is_one_clear_line() -> None:
    source, rows = labels(1, each=6)
    with pytest.raises(InputError, match="at least 2 rows"):
        embedding_probe(np.zeros((12, 3)), source, rows)


def test_artefacts_are_named_with_their_direction() -> None:
    source, rows = labels(30)
    rng = np.random.default_rng(0)
    body = [" ".join(rng.choice(["red", "green", "blue", "gold", "grey"], size=6)) for _ in source]
    texts = [
        f"Please note that {t}" if s else f"{t} and then some more words here"
        for t, s in zip(body, source, strict=True)
    ]
    found = find_artefacts(texts, source, rows)
    assert {a.kind for a in found} == {"length", "opening", "n-gram"}
    assert any(str(a) == "“please note that” opens 100% of generated and 0% of corpus passages" for a in found)
    length = next(a for a in found if a.kind == "length")
    assert str(length).startswith("generated passages are shorter: 9 words on average against 12")
    assert all(0 < a.strength <= 1 and a.p_value < 0.05 for a in found)


@pytest.mark.parametrize(
    ("phrase", "letters"),
    [
        ("it is worth noting that ", [f"w{i} " for i in range(40)]),
        ("值得注意的是，", "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳"),
        ("なお、注意すべきは", "あいうえおかきくけこさしすせそたちつてと日本語東京大阪"),
        ("สิ่งที่ควรทราบคือ", "กขคงจชซญดตถทนบปผพมยรลวสหอ"),
    ],
)
@pytest.mark.parametrize("place", [0, 6, 20])
def test_a_phrase_is_found_in_any_script_and_told_once(phrase: str, letters: str, place: int) -> None:
    source, rows = labels(30)
    rng = np.random.default_rng(place)
    bodies = [list(rng.choice(list(letters), size=20)) for _ in source]
    texts = ["".join([*body[:place], phrase * bool(s), *body[place:]]) for s, body in zip(source, bodies, strict=True)]
    assert words_probe(texts, source, rows).low > 0.95
    found = [a for a in find_artefacts(texts, source, rows) if a.kind != "length"]
    assert [(a.generated, a.corpus) for a in found] == [(1.0, 0.0)]
    assert found[0].name.replace(" ", "") in phrase.replace(" ", "")
    assert len(found[0].name.replace(" ", "")) >= 6


def test_words_that_a_longer_text_has_anyway_are_no_artefacts() -> None:
    source, rows = labels(60)
    rng = np.random.default_rng(0)
    vocabulary = [",", "and", *(f"w{i}" for i in range(14))]
    texts = [" ".join(rng.choice(vocabulary, 30 if s else 15)) for s in source]
    assert [a.name for a in find_artefacts(texts, source, rows) if " " not in a.name] == ["words"]


def test_a_topic_of_few_rows_and_equal_texts_are_no_artefacts() -> None:
    source, rows = labels(40)
    texts = [
        "the same words in all passages" + (" penguins" if s and r == 0 else "")
        for s, r in zip(source, rows, strict=True)
    ]
    assert find_artefacts(texts, source, rows) == []


@pytest.mark.parametrize(("num_rows", "num_sets"), [(3, 20), (8, 40), (40, 20)])
def test_rows_without_a_difference_raise_no_alarm(num_rows: int, num_sets: int) -> None:
    """Of sets without any difference, something is found in no more than one in 20 or so.

    Generated passages are made from one text of their row, and there are not as many as corpus passages.
    """
    rng = np.random.default_rng(num_rows)
    vocabulary, weights = [f"w{i}" for i in range(200)], 1 / np.arange(1, 201)

    def words(number: int) -> list[str]:
        return list(rng.choice(vocabulary, number, p=weights / weights.sum()))

    alarms = 0
    for _ in range(num_sets):
        texts = []
        for _ in range(num_rows):
            shared = words(18)
            texts += [" ".join(rng.permutation(shared + words(6))) for _ in range(3)]
            texts += [" ".join(words(24)) for _ in range(4)]
        source = np.tile([True] * 3 + [False] * 4, num_rows)
        alarms += bool(find_artefacts(texts, source, np.repeat(np.arange(num_rows), 7)))
    assert alarms <= (0.15 * num_sets if num_rows >= FEWEST_ROWS else 0)


def test_an_artefact_of_ten_rows_is_found() -> None:
    source, rows = labels(10)
    words = np.random.default_rng(0).choice([f"w{i}" for i in range(30)], size=(len(source), 8))
    texts = [("notably " if s else "") + " ".join(line) for s, line in zip(source, words, strict=True)]
    assert any("“notably” opens 100% of generated" in str(artefact) for artefact in find_artefacts(texts, source, rows))


def test_a_passage_mined_for_many_queries_counts_once_and_with_the_row_that_it_answers() -> None:
    rows = [
        row(0, [mined("answer 1"), generated("g0"), mined("other")]),
        row(1, [mined("other"), generated("g1")]),
    ]
    embedded = embed_rows(rows, TableEncoder())
    chosen, group = distinct_passages(embedded, "mined")
    assert [(embedded.texts_P[p], g) for p, g in zip(chosen, group, strict=True)] == [
        ("answer 1", 1), ("g0", 0), ("other", 0), ("g1", 1),
    ]  # fmt: skip


def test_remembering_corpus_passages_is_not_telling_sources_apart() -> None:
    """Forty corpus passages are mined for all queries. Generated ones differ from them in nothing but being new."""
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(200)]
    corpus = [" ".join(rng.choice(words, 20)) for _ in range(40)]
    rows = [
        row(r, [*(mined(corpus[i]) for i in rng.permutation(40)[:4]), generated(" ".join(rng.choice(words, 20)))])
        for r in range(60)
    ]
    embedded = embed_rows(rows, TableEncoder())
    negative = embedded.kind_P != POSITIVE
    texts = [text for text, kept in zip(embedded.texts_P, negative, strict=True) if kept]
    remembered = words_probe(texts, embedded.kind_P[negative] == GENERATED, embedded.row_P[negative])
    assert remembered.low > 0.9, "the trap that the next lines must avoid"
    found = text_leak(embedded)
    assert found.num_corpus == 40
    assert found.words_auc.low < 0.5


def test_leak_of_rows_and_its_warning() -> None:
    rows = [
        row(r, [mined(f"m {r} a"), mined(f"m {r} b"), generated(f"delve {r} a"), generated(f"delve {r} b")])
        for r in range(20)
    ]
    embedded = embed_rows(rows, TableEncoder())
    text, encoder = text_leak(embedded), encoder_leak(embedded, num_permutations=20)
    assert encoder.score is not None and encoder.margin is not None
    warnings = leak_warnings(text, encoder)
    assert warnings[0].startswith("a word counter tells generated from corpus passages: AUC 1.000")
    assert any("“delve” opens 100% of generated" in warning for warning in warnings)


@pytest.mark.parametrize("num_rows", [FEWEST_ROWS - 1, FEWEST_ROWS])
def test_too_few_rows_for_artefacts_are_said_to_be_too_few(num_rows: int) -> None:
    rows = [row(r, [mined(f"m {r}"), generated(f"delve {r} a"), generated(f"delve {r} b")]) for r in range(num_rows)]
    found = text_leak(embed_rows(rows, TableEncoder()))
    assert bool(found.artefacts) == (num_rows == FEWEST_ROWS)
    assert found.artefacts_absent.startswith("too few rows" if num_rows < FEWEST_ROWS else "")
    assert bool(found.artefacts_absent) == (num_rows < FEWEST_ROWS)


def test_without_mined_negatives_positives_are_the_corpus_side() -> None:
    rows = [row(r, [generated(f"g {r} a"), generated(f"g {r} b")]) for r in range(10)]
    embedded = embed_rows(rows, TableEncoder())
    assert text_leak(embedded).compared_with == "positive"
    assert encoder_leak(embedded, num_permutations=20).score is None


def test_without_generated_negatives_there_is_no_leak_to_measure() -> None:
    embedded = embed_rows([row(r, [mined(f"m {r}")]) for r in range(10)], TableEncoder())
    with pytest.raises(InputError, match="no row has a generated negative"):
        text_leak(embedded)
