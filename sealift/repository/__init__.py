"""The sealed repository: recovery points in an object store (docs/repository-format.md)."""
