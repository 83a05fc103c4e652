"""Text embeddings from GGUF files, on llama.cpp, without torch."""

__version__ = "0.1.0.dev0"
