"""The one loop, and what surrounds it: loader, checkpoints, logs, previews, precision, devices."""
