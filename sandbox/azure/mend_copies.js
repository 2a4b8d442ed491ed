// Loaded into Azurite before its own program (node --require).
//
// Azurite gives a copied page blob the very list of page ranges of its source, not a copy of it
// (LokiBlobMetadataStore, startCopyFromURL and copyFromURL). A later write to the copy then shows
// in the source, be it a blob snapshot, which never changes in the service ("Snapshot Blob").
"use strict";

const path = require("path");

const main = process.argv[1];
const store = require(path.join(path.dirname(main), "persistence", "LokiBlobMetadataStore")).default;

for (const name of ["startCopyFromURL", "copyFromURL"]) {
  const original = store.prototype[name];
  store.prototype[name] = async function (context, source, destination, ...rest) {
    const answer = await original.call(this, context, source, destination, ...rest);
    const blobs = this.db.getCollection(this.BLOBS_COLLECTION);
    const copied = blobs.findOne({
      accountName: destination.account,
      containerName: destination.container,
      name: destination.blob,
      snapshot: "",
    });
    if (copied && copied.pageRangesInOrder) {
      copied.pageRangesInOrder = copied.pageRangesInOrder.slice();
      blobs.update(copied);
    }
    return answer;
  };
}
