"""Summaries and intervals of scores."""
