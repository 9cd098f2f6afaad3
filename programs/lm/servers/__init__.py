"""Loopback servers for recorded answers and local models."""
