"""Self-supervised methods: one file each, named by its slug."""
