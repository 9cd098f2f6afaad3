"""Several commands one after another, from one file."""
