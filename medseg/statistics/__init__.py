"""Summaries of scores over cases, with intervals; paired comparisons."""

from medseg.statistics.bootstrap import INTERVAL_METHOD
from medseg.statistics.summary import mean_over_structures, summarise, worst_scores

__all__ = ["INTERVAL_METHOD", "mean_over_structures", "summarise", "worst_scores"]
