"""Metrics of verification, identification and template protection, from distances: lower = more alike."""
