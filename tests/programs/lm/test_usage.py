"""Tokens of texts that nobody has tokenised: estimates, and the bound that a budget reserves by."""

import pytest

from programs.lm.usage import PromptBound, TextSize, estimated_tokens

ENGLISH, CHINESE, THAI = (
    "opened oats keep for eight weeks. " * 40,
    "燕麦开封后可以保存八周。" * 40,
    "ข้าวโอ๊ตเปิดแล้วเก็บได้" * 40,
)


def test_an_estimate_knows_scripts_whose_characters_are_words() -> None:
    assert estimated_tokens(TextSize.of(ENGLISH)) == len(ENGLISH) // 4
    assert estimated_tokens(TextSize.of(CHINESE)) == len(CHINESE)
    assert TextSize.of("half \ud800") == TextSize(5, 1)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, THAI])
def test_before_anything_was_counted_a_byte_may_be_a_token(text: str) -> None:
    assert PromptBound().tokens(TextSize.of(text)) >= len(text.encode())


def test_the_bound_learns_each_script_from_what_was_counted() -> None:
    bound, english, thai = PromptBound(), TextSize.of(ENGLISH), TextSize.of(ENGLISH + THAI)
    bound.learn(english, 300)
    assert 300 < bound.tokens(english) < 400
    # What English makes says nothing of Thai.
    assert bound.tokens(thai) >= thai.other
    bound.learn(thai, 300 + thai.other // 2)
    assert 300 + thai.other // 2 < bound.tokens(thai) < 400 + thai.other * 3 // 4
    # The most that was seen counts, and a prompt of a few words says nothing.
    bound.learn(english, 200)
    bound.learn(TextSize.of("hello"), 90)
    assert 300 < bound.tokens(english) < 400
