"""Kinds of negatives compared: same recipe, several seeds."""
