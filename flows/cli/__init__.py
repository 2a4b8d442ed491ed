"""The command ``sealift``."""
