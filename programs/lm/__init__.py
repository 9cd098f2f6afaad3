"""Language models: names, budgets, metering, pacing, retries, layouts of prompts and answers."""
