"""From a person's files to batches: sources, splits, pictures, encoding, order, loading."""
