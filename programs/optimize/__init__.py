"""Compiling the prompts against the retriever's feedback."""
