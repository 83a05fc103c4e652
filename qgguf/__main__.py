"""The entry point of `python -m qgguf`."""

from qgguf.cli import main

if __name__ == "__main__":
    main()
