"""Records to token rows to mindrecord to batches."""
