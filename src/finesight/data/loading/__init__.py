"""From examples to the batches of each step: order, mixture, streams, processes."""
