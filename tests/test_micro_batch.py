"""The micro-batch of models whose texts are computed in one piece: llama.cpp ends the process if it does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.gguf_format.reader import read_header
from qgguf.memory.planner import ModelSizes, PlanRequest, one_pass_tokens, plan
from qgguf.model.from_gguf import sizes_of, spec_of
from tests.support.empty_model import make_empty_model
from tests.support.processes import run_code

MOST_TOKENS = 8192


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> ModelSizes:
    path = make_empty_model(tmp_path_factory.mktemp("sizes") / "model.gguf", "minilm", layers=2)
    header = read_header(path)
    return replace(sizes_of(header, spec_of(header, path)), context_length=MOST_TOKENS, default_tokens=512)


@pytest.mark.parametrize("vocab_size", [*range(20_000, 300_001, 1000), 50_265, 50_368, 61_056, 119_547, 151_669])
def test_planned_micro_batch_is_a_multiple_of_the_sequences(vocab_size: int, sizes: ModelSizes):
    """The cells are the least multiple that holds the longest text, and the memory is planned for them."""
    for max_tokens in (None, 4, 333, 511, 513, 1000, 1001, 1500, 2047, 8191):
        for means in (True, False):
            one = replace(sizes, vocab_size=vocab_size, means=means)
            best = plan(one, PlanRequest(max_tokens=max_tokens))
            chosen, longest = best.settings, max(max_tokens or 512, 512)
            assert chosen.micro_batch == chosen.cells
            assert chosen.cells % chosen.n_sequences == 0
            assert longest <= chosen.cells < longest + chosen.n_sequences
            larger = plan(one, PlanRequest(max_tokens=chosen.cells)) if chosen.cells <= MOST_TOKENS else best
            assert larger.ram_bytes == best.ram_bytes


@given(st.integers(1, 100_000), st.integers(1, 300))
def test_one_pass_tokens_is_the_least_multiple(tokens: int, n_sequences: int):
    """It holds the tokens, and is less than one multiple more."""
    rounded = one_pass_tokens(tokens, n_sequences)
    assert rounded % n_sequences == 0 and tokens <= rounded < tokens + n_sequences


_CONTEXTS = """
import sys
from pathlib import Path
import numpy as np
from qgguf.gguf_format.reader import read_header
from qgguf.model.from_gguf import spec_of
from qgguf.model.spec import Pooling
from qgguf.native.context import NativeContext
from qgguf.native.model import NativeModel
from qgguf.native.strategy import Strategy
path = Path(sys.argv[1])
with_model = NativeModel(path, spec_of(read_header(path), path), "cpu")
for pooling in (Pooling.MEAN, Pooling.CLS):
    for cells in (1, 512, 513, 1000):
        context = NativeContext(with_model, cells=cells, threads=2, pooling=pooling, strategy=Strategy.PLAIN)
        for n_texts, length in ((1, min(cells, 500)), (3, 2), (context.max_texts, 1)):
            texts = [np.full(length, 5 + number, np.int32) for number in range(n_texts)]
            assert context.vectors(texts).shape == (n_texts, with_model.spec.dims)
        context.close()
print("computed")
"""


@pytest.mark.parametrize(
    ("shape", "vocab_size"),
    [("minilm", size) for size in (20_000, 39_063, 50_265, 61_056, 119_547, 156_250, 250_002)]
    + [("0.6b", size) for size in (50_368, 128_256, 151_669)],
)
def test_contexts_of_any_vocabulary_compute(shape: str, vocab_size: int, tmp_path: Path):
    """Mean and cls pooling over encoders and decoders, at numbers of cells that are no multiple of the sequences."""
    changes = {"hidden_size": 64, "num_attention_heads": 8, "vocab_size": vocab_size, "intermediate_size": 64}
    path = make_empty_model(tmp_path / "model.gguf", shape, "F16", layers=1, **changes)
    done = run_code(_CONTEXTS, str(path), home=tmp_path)
    assert (done.returncode, done.stdout) == (0, "computed\n"), done.stderr[-2000:]
