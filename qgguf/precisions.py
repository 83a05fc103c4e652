"""The names of the forms that vectors are returned in; `qgguf.vectors.to_precision` makes them."""

PRECISIONS = ("float32", "int8", "binary", "ubinary")
