"""Tuning logs and compute graphs as plain data."""
