"""Records, readers and writers. Imports nothing else of this project."""
