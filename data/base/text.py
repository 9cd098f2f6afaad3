"""Text as it enters the project: one normal form, the key that compares two texts, and the words that differ."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher

# C0 and C1 controls except tab and newline: they have no meaning in a passage and break JSON, SQLite and terminals.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Scripts that put no spaces between words. A word of Chinese or Japanese has about two characters, one of Thai, Lao,
# Burmese or Khmer about four.
_HAN = (
    "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_THAI = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\uaa60-\uaa7f"
# Marks belong to the word that they stand in, and are no letters to `\w`: accents, Hebrew, Arabic and Indic vowels.
_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962-\u0963\u0981-\u0dff"
)
_SPACELESS = re.compile(f"[{_HAN}{_THAI}]")
_TOKEN = re.compile(rf"[{_HAN}{_THAI}]|(?:[^\W{_HAN}{_THAI}]|[{_MARKS}])+|[^\w\s]")


def public_address(text: str) -> str:
    """An address as it may be written down: without a user's name and password, the values of a query, or what follows
    a # in it."""
    text = re.sub(r"(?<=://)([^#\s]*)#\S*", r"\1", text)
    return re.sub(r"(?<=[?&])([^=&#\s]+)=[^&#\s]*", r"\1=[secret]", re.sub(r"(?<=://)[^/?#\s]*@", "", text))


# Beyond this the comparison takes seconds and so many marks say nothing.
_MOST_WORDS = 3000
# From this share of words kept on, a text is an edit of the other; below, it is a rewrite.
LIGHT_EDIT = 0.5
_REWRITE_PIECE = 4
Range = tuple[int, int]


def clean_text(text: str) -> str:
    """Return `text` with line ends unified, control characters blanked, lone surrogates replaced, ends stripped.

    Idempotent. Everything else (combining marks, right-to-left text, emoji) is left as it is.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub(" ", text)
    return _SURROGATE.sub("\ufffd", text).strip()


def in_number(count: int, noun: str) -> str:
    """A count with its noun: "1 batch", "2 batches"."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{ending}"


def passage_text(title: str | None, text: str) -> str:
    """Join a title and a text into the one string that is encoded, shown to a language model and compared."""
    return clean_text(f"{title}\n{text}" if title and title.strip() else text)


def tokens(text: str) -> Iterator[re.Match[str]]:
    """Words and single punctuation marks; of a script without spaces between words, single characters."""
    return _TOKEN.finditer(text)


def is_spaceless(token: str) -> bool:
    """Whether a token is a character of a script without spaces between words."""
    return _SPACELESS.match(token) is not None


def num_words(text: str) -> int:
    """Number of words: as spaces divide them, estimated from characters where a script has no spaces between words."""
    num_han, num_thai = (len(re.findall(f"[{script}]", text)) for script in (_HAN, _THAI))
    if not num_han + num_thai:
        return len(text.split())
    others = sum(any(map(str.isalnum, word)) for word in _SPACELESS.sub(" ", text).split())
    return others + max(1, round(num_han / 2 + num_thai / 4))


def changed_ranges(first: str, second: str) -> tuple[list[Range], list[Range], float]:
    """(ranges only in the first text, ranges only in the second, share of words kept from 0 to 1).

    Ranges are [start, end) in characters, in order, without overlap; neighbouring changed words make one range, and so
    do those of a rewrite with fewer than four kept words between them. Case does not count. Texts of more than 3000
    words are not compared: no ranges, share 0. Without a kept piece there are no ranges either.
    """
    words = [list(tokens(text)) for text in (first, second)]
    if not words[0] or not words[1] or max(map(len, words)) > _MOST_WORDS:
        return [], [], 0.0
    folded = [[match[0].casefold() for match in found] for found in words]
    matcher = SequenceMatcher(None, folded[0], folded[1], autojunk=False)
    kept = matcher.ratio()
    # Of a rewrite only what is kept in a longer piece is left unmarked: single words in common mean nothing.
    shortest = 1 if kept >= LIGHT_EDIT else _REWRITE_PIECE
    ranges: tuple[list[Range], list[Range]] = ([], [])
    blocks = [block for block in matcher.get_matching_blocks() if block.size >= shortest or not block.size]
    if len(blocks) == 1:  # the end alone: another text, in which everything would be marked
        return [], [], kept
    place = [0, 0]
    for *starts, length in blocks:
        for side, (start, end) in enumerate(zip(place, starts, strict=True)):
            if start < end:
                ranges[side].append((words[side][start].start(), words[side][end - 1].end()))
        place = [start + length for start in starts]
    return ranges[0], ranges[1], kept


def same_text_key(text: str) -> str:
    """A key that is equal for two texts that differ only in case, white space or Unicode form."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split())


def content_id(*parts: str) -> str:
    """A stable 16-hex-digit id of the given texts (BLAKE2b; unlike `hash`, the same in every process)."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()
