"""What a model is: its spec, its prompts, read from a GGUF header."""
