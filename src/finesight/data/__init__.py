"""From rows to batches: sources, pictures, templates, encoding, packing and the loader."""
