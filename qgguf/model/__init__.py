"""Models: spec, families and prompts, and how they are read from a GGUF header."""
