"""Source leak, hardness, gradient drift and artefacts of a set of rows."""
