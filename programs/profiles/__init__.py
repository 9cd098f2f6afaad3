"""Corpus profiles: what counts as relevant and how passages read."""
