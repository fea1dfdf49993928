"""Random and deterministic changes of patches: drawn from a generator, then applied."""
