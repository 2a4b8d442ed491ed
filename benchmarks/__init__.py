"""Sealift beside its peers and limits, in the same run: ``python -m benchmarks``."""
