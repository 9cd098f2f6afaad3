"""Retrieval metrics, diagnostics and the demo. May import every other room."""

import trainer  # noqa: F401  # says how OpenMP threads wait, which must come before anything loads torch
