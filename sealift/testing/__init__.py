"""Public test vocabulary: disks as text, in-memory ends, and the contract suites.

Lives in the distribution so that whoever writes a reader or a writer can prove it with
the same suites. Not imported by product code.
"""
