"""The version of this package, in a module that imports nothing, so that any module can import it."""

__version__ = "0.1.0.dev0"
