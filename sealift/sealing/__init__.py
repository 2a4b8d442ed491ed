"""Cryptography of the repository: docs/repository-format.md has its bytes."""
