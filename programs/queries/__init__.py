"""Queries from passages alone, for somebody who has documents and nothing else."""
