"""From texts to raw vectors: windows, batches, lanes, placement."""
