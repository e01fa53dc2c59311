"""Batched scoring and online adaptation."""
