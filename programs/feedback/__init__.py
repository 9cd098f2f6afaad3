"""The retriever's feedback: one score in [0, 1] and words, and DSPy metrics made of it."""
