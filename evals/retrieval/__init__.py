"""Retrieval measures of an encoder on a data set."""
