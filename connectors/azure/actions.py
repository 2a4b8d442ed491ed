"""Names of what is done to blobs, as roles name it."""

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
READ = f"{_BLOBS}/read"
WRITE = f"{_BLOBS}/write"
DELETE = f"{_BLOBS}/delete"
