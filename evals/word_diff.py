"""Which words of one passage differ from another, as character ranges: what a page marks."""

import re
from difflib import SequenceMatcher

_WORD = re.compile(r"\w+|[^\w\s]")
# Beyond this the comparison takes seconds and so many marks say nothing.
_MOST_WORDS = 3000

Range = tuple[int, int]


def changed_ranges(first: str, second: str) -> tuple[list[Range], list[Range], float]:
    """(ranges only in the first text, ranges only in the second, share of words kept from 0 to 1).

    Ranges are [start, end) in characters, in order, without overlap; neighbouring changed words make one range. Case
    does not count. Texts of more than 3000 words are not compared: no ranges, share 0.
    """
    words = [list(_WORD.finditer(text)) for text in (first, second)]
    if not words[0] or not words[1] or max(map(len, words)) > _MOST_WORDS:
        return [], [], 0.0
    folded = [[match[0].casefold() for match in found] for found in words]
    matcher = SequenceMatcher(None, folded[0], folded[1], autojunk=False)
    ranges: tuple[list[Range], list[Range]] = ([], [])
    for kind, *ends in matcher.get_opcodes():
        if kind != "equal":
            for side, (start, end) in enumerate(((ends[0], ends[1]), (ends[2], ends[3]))):
                if start < end:
                    ranges[side].append((words[side][start].start(), words[side][end - 1].end()))
    return ranges[0], ranges[1], matcher.ratio()
