"""A process that works on a folder of objects, to be killed or disturbed by strace.

Arguments: the folder, then ``put``, ``large``, ``absent``, ``match`` or ``delete``. Prints
``ready`` when the folder is open, and how the call ended: ``done`` or the code of the error.
"""

import mmap
import sys
from pathlib import Path

from connectors.local.object_folder import FolderObjectStore
from sealift.errors import SealiftError

NEW = b"new" * 50_000
LARGE = b"large" * 500_000


def main(folder: Path, verb: str) -> None:
    store = FolderObjectStore.open(folder)
    found = store.head("a/old")
    print("ready", flush=True)
    try:
        if verb == "put":
            store.put("a/old", NEW)
        elif verb == "large":
            pages = mmap.mmap(-1, len(LARGE))  # which goes past the page cache
            pages[:] = LARGE
            store.put("a/old", memoryview(pages))
        elif verb == "absent":
            store.put("a/new/deep", NEW, if_absent=True)
        elif verb == "match" and found is not None:
            store.put("a/old", NEW, if_match=found.version)
        elif verb == "delete":
            store.delete("a/old")
    except SealiftError as error:
        print(error.code, flush=True)
        return
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
