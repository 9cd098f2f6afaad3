"""Benchmarks against peers: ratios in one run, never asserted by the test suite."""
