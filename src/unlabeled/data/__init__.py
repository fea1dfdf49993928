"""Scans: finding, reading, preparing, splitting and sampling them."""
