"""Text as it enters the project: one normal form for passages and queries, and the key that compares them."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

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
    """An address as it may be written down: without a user's name and password, and without the values of a query."""
    return re.sub(r"(?<=[?&])([^=&#\s]+)=[^&#\s]*", r"\1=[secret]", re.sub(r"(?<=://)[^/?#\s]*@", "", text))


def clean_text(text: str) -> str:
    """Return `text` with line ends unified, control characters blanked, lone surrogates replaced, ends stripped.

    Idempotent. Everything else (combining marks, right-to-left text, emoji) is left as it is.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub(" ", text)
    return _SURROGATE.sub("\ufffd", text).strip()


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
