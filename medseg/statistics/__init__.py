"""Summaries of scores over cases."""

from medseg.statistics.summary import mean_over_structures, summarise

__all__ = ["mean_over_structures", "summarise"]
