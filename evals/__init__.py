"""Retrieval metrics, diagnostics and the demo. May import every other room."""
