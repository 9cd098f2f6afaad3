"""The synthesis run: from mined rows to verified negatives, resumable."""
