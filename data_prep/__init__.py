"""From outside files to the archive: readers, ingest, and the synthetic rain."""
