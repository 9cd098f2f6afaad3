"""The demo: the whole path on the shipped data."""
