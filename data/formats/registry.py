"""Registry."""

from data.formats.flag_embedding import _at_least_one, _flag_from_lines, _flag_to_lines
from data.formats.format import Format, _rows_from_lines, _rows_to_lines
from data.formats.sentence_transformers import (
    _generated_first,
    _labelled_from_lines,
    _labelled_to_lines,
    _origins_from_lines,
    _origins_to_lines,
    _same_but,
    _tuples_from_lines,
    _tuples_to_lines,
)
from data.formats.swift import _mined_first, _same, _swift_from_lines, _swift_to_lines
from data.formats.tevatron import _tevatron_from_lines, _tevatron_to_lines

FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format(
            name="rows",
            carries="everything",
            to_lines=_rows_to_lines,
            from_lines=_rows_from_lines,
            lossless=True,
        ),
        Format(
            name="flag-embedding",
            carries="texts",
            to_lines=_flag_to_lines,
            from_lines=_flag_from_lines,
            choose=_at_least_one,
        ),
        Format(
            name="swift",
            carries="texts",
            to_lines=_swift_to_lines,
            from_lines=_swift_from_lines,
            choose=_mined_first,
            fixed_negatives=True,
            same_row=_same("messages", "negative_messages"),
        ),
        Format(name="tevatron", carries="texts and ids", to_lines=_tevatron_to_lines, from_lines=_tevatron_from_lines),
        Format(
            name="st-tuples",
            carries="texts",
            to_lines=_tuples_to_lines,
            from_lines=_tuples_from_lines,
            choose=_generated_first,
            fixed_negatives=True,
            same_row=_same_but("positive"),
        ),
        Format(
            name="st-origins",
            carries="texts and which negatives are generated",
            to_lines=_origins_to_lines,
            from_lines=_origins_from_lines,
            choose=_generated_first,
            fixed_negatives=True,
            same_row=_same_but("positive"),
        ),
        Format(name="st-labelled", carries="texts", to_lines=_labelled_to_lines, from_lines=_labelled_from_lines),
    )
}
