"""The strategies: the ways in which vectors are read from llama.cpp."""

from enum import Enum

LEAST_COSINE = 0.999
"""Cosine to the plain strategy's vectors that the other strategies must reach. Quantised weights round differently for
one row than for many; F16 reaches 0.9999."""

LEAST_COSINE_ROUNDED = 0.95
"""The same where the plain strategy's own vectors of a text in a batch and alone differ by more. The row of another
token has a far smaller cosine."""

ROUNDING_FACTOR = 4.0
"""How many times the plain strategy's own difference (1 - cosine) another strategy may have."""


class Strategy(Enum):
    """How vectors are read from llama.cpp.

    LAST_ROWS  A callback reads the last token's row of the final norm, then stops the graph before the vocabulary
               projection. For causal models with last-token pooling.
    TWO_CALLS  All tokens but each text's last are computed without outputs, then the last ones with llama.cpp's
               pooling; this reads the weights once more. For the same models, where the callback finds no final norm.
    PLAIN      llama.cpp's pooling, with all tokens as outputs. For every model; the other strategies are tested
               against it.
    """

    LAST_ROWS = "last_rows"
    TWO_CALLS = "two_calls"
    PLAIN = "plain"


STRATEGY_NAMES = tuple(strategy.value for strategy in Strategy)
"""What options named `strategy` accept."""
