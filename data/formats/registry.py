"""The formats there are."""

from data.formats.flag_embedding import FlagEmbedding
from data.formats.format import Format
from data.formats.rows import Rows
from data.formats.sentence_transformers import Graded, Labelled, Origins, Tuples
from data.formats.swift import Swift
from data.formats.tevatron import Tevatron

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (Rows(), FlagEmbedding(), Swift(), Tevatron(), Tuples(), Origins(), Graded(), Labelled())
}
