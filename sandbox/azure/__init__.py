"""The offline Azure: Azurite for blobs, and the part of Resource Manager that Sealift uses."""
