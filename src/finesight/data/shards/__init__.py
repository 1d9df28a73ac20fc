"""Writing shards: rows with their pictures put in, as WebDataset tar files or parquet."""
