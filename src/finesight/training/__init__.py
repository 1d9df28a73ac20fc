"""The training engine: it knows no data set, no architecture and no metric."""
