"""Measurements behind the package's design; run from the repository's root. No tests."""
