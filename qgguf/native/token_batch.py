"""The arrays of a llama_batch."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgguf.batching import Ids, SharedTokens
from qgguf.native import binding


class TokenBatch:
    """Tokens, positions, sequences and output flags as llama.cpp reads them, filled without a Python step per token.

    tokens, positions, first, counts  as in SharedTokens, (n_tokens,) int32
    ends     indices of the tokens whose results are needed
    """

    def __init__(self, tokens: Ids, positions: Ids, first: Ids, counts: Ids, ends: NDArray[np.int64]) -> None:
        self.n_tokens = len(tokens)
        self.tokens, self.positions, self.first, self.counts, self.ends = tokens, positions, first, counts, ends
        # The texts of a token are neighbours, so one array of numbers serves all tokens: each points to its first text.
        self._numbers = np.arange(int(np.max(first + counts, initial=0)), dtype=np.int32)
        self.sequence_pointers = self._numbers.ctypes.data + first.astype(np.uintp) * 4
        self.outputs = np.zeros(self.n_tokens, np.int8)
        self.outputs[ends] = 1

    @classmethod
    def of(cls, layout: SharedTokens) -> "TokenBatch":
        """Return the batch of a layout, with each text's last token as output."""
        return cls(layout.tokens, layout.positions, layout.first, layout.counts, layout.ends)

    def split_off_last(self) -> tuple["TokenBatch", "TokenBatch"]:
        """Return all tokens but each text's last, without outputs, and the last ones, with outputs."""
        is_last = self.outputs == 1
        return self._select(~is_last, np.empty(0, np.int64)), self._select(is_last, np.arange(len(self.ends)))

    def _select(self, chosen: NDArray[np.bool_], ends: NDArray[np.int64]) -> "TokenBatch":
        return TokenBatch(self.tokens[chosen], self.positions[chosen], self.first[chosen], self.counts[chosen], ends)

    def slice(self, start: int, stop: int) -> Any:
        """Return a llama_batch over tokens start to stop. This object must outlive it."""
        batch = binding.llama().llama_batch()
        batch.n_tokens = stop - start
        for field, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self.counts),
            ("seq_id", self.sequence_pointers),
            ("logits", self.outputs),
        ):
            kind = dict(batch._fields_)[field]
            setattr(batch, field, ctypes.cast(array.ctypes.data + start * array.itemsize, kind))
        return batch
