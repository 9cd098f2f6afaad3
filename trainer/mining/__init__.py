"""Hard negatives from the corpus: exact search, rules that drop candidates, the embedding cache."""
