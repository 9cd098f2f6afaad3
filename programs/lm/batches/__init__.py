"""Requests in files: sent as a provider's batches, or left in a folder for whatever reads such files."""
