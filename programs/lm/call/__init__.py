"""One attempt at a call: how it is sent, what comes back, how it is read, and what a refusal teaches."""
