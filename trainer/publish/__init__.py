"""Model cards and the way onto the hub."""
