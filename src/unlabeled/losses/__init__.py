"""Losses: plain functions with shapes, units, source and an example to check by hand."""
