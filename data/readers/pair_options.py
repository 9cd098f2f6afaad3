"""The options of commands that read pairs."""

from data.base.options import options


@options
class PairOptions:
    """How pairs are read."""

    query: str | None = None
    """Column or field of pairs that holds the query (None: query, anchor, question, claim or sentence1)."""

    positive: str | None = None
    """Column or field of pairs that holds the positive: text, or with --corpus the id of a passage (None: positive,
    positives, pos, passage, document, answer, context or sentence2)."""

    title: str | None = None
    """Column or field of pairs that holds the positive's title, which is put in front of its text."""

    corpus: str | None = None
    """Corpus beside the pairs: a file with a passage a line (text, perhaps title and id), a BEIR folder, or a folder of
    .txt files, each a passage under its name (None: the positives alone)."""
