"""Comparisons: cells, statistics, reports."""
