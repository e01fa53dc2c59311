"""Operators and networks that have a name, and those that users bring."""
