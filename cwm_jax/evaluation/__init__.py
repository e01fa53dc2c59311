"""Ranking metrics and reports."""
