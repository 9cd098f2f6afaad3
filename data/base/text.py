"""Text as it enters the project: one normal form for passages and queries, and the key that compares them."""

import hashlib
import re
import unicodedata

# C0 and C1 controls except tab and newline: they have no meaning in a passage and break JSON, SQLite and terminals.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


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
