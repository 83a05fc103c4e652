"""The GGUF file format: reading and writing headers."""
