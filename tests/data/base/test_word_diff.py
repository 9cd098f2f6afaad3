from hypothesis import given
from hypothesis import strategies as st

from data.base.text import changed_ranges


def cut(text: str, ranges: list) -> list[str]:
    return [text[start:end] for start, end in ranges]


def test_changed_words_are_found_on_both_sides() -> None:
    first, second = "The Team plan keeps files for 90 days.", "The Solo plan keeps all files for 30 days."
    left, right, kept = changed_ranges(first, second)
    assert cut(first, left) == ["Team", "90"]
    assert cut(second, right) == ["Solo", "all", "30"]
    assert kept == 2 * 7 / 19


def test_case_does_not_count_and_ranges_are_characters() -> None:
    text = "🙂 Ünïted 𝔸 files"
    assert cut(text, changed_ranges(text.replace("files", "Rooms"), text)[1]) == ["files"]
    assert changed_ranges("Same Words", "same words") == ([], [], 1.0)


def test_very_long_and_empty_texts_are_not_compared() -> None:
    assert changed_ranges("a " * 4000, "b") == ([], [], 0.0)
    assert changed_ranges("", "b") == ([], [], 0.0)


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_is_not_marked_reads_the_same_on_both_sides(first: str, second: str) -> None:
    left, right, kept = changed_ranges(first, second)
    for text, ranges in ((first, left), (second, right)):
        ends = [0, *(end for pair in ranges for end in pair), len(text)]
        assert ends == sorted(ends)
    assert 0 <= kept <= 1
    if left or right or kept == 1:
        words = []
        for text, ranges in ((first, left), (second, right)):
            for start, end in reversed(ranges):
                text = text[:start] + " " + text[end:]
            words.append("".join(text.split()).casefold())
        letters = ["".join(c for c in found if c.isalnum()) for found in words]
        assert letters[0] == letters[1]


def test_a_rewrite_is_marked_in_pieces_and_not_word_by_word() -> None:
    first = "The Team plan keeps deleted files for 90 days, then they are gone."
    second = "On the Solo side, files for sale are gone with a note that they must be paid for 90 days."
    assert changed_ranges(first, second)[:2] == ([], [])
    first, second = f"It always depends. {first}", f"{second} It always depends."
    left, right, kept = changed_ranges(first, second)
    assert kept < 0.5
    assert cut(first, left) == [first[19:]] and cut(second, right) == [second[:-19]]
