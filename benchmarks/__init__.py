"""Benchmarks: what this library does on one core, and what its peers do with the same work."""
