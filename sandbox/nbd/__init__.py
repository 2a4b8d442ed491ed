"""NBD servers to test against: real ones, and one that lies by script."""
