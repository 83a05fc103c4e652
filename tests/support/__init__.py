"""What tests and scripts share: checkpoints, texts, a local hub, processes."""
