"""A virtual cohort from a real template, for the demo and for tests."""
