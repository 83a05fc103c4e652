"""Benchmarks: figures are consistent and sample texts as described. No test depends on the speed."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.batching import common_length, sort_key
from qgguf.errors import NativeError, OptionError
from qgguf.evaluation import sample_texts
from qgguf.evaluation.speed import LEAST_QUERIES, LEAST_TEXTS, ROUNDS, STEPS, Measurement, measure
from qgguf.hardware.machine import this_machine
from qgguf.hardware.process_memory import resident_bytes
from qgguf.model.from_gguf import read_spec
from qgguf.native.model import NativeModel
from qgguf.native.prompt_speed import N_TOKENS, PromptProcessing
from tests.support.processes import qgguf, run_code


@pytest.fixture(scope="module")
def measured(small_qwen3: Path) -> tuple[Measurement, list[tuple[int, int]]]:
    """Return the figures of a short run, and its progress."""
    steps: list[tuple[int, int]] = []
    figures = measure(small_qwen3, seconds=0.5, threads=1, on_progress=lambda *step: steps.append(step))
    return figures, steps


def test_figures_are_consistent(measured: tuple[Measurement, list[tuple[int, int]]], small_qwen3: Path):
    """Rates follow from texts, tokens and seconds, with tokens as the model's tokenizer counts them."""
    figures, _ = measured
    assert figures.model["size_bytes"] == small_qwen3.stat().st_size
    assert (figures.threads, figures.device, figures.strategy) == (1, "cpu", "last_rows")
    for rate in (figures.documents, figures.queries, figures.raw):
        assert len(rate.n_texts) == len(rate.n_tokens) == len(rate.seconds) == ROUNDS
        assert min(rate.seconds) > 0
        by_round = [n / taken for n, taken in zip(rate.n_tokens, rate.seconds, strict=True)]
        assert rate.tokens_per_second == sorted(by_round)[1]
    assert set(figures.raw.n_tokens) == {N_TOKENS * figures.raw.n_texts[0]}
    assert figures.raw_share == figures.documents.tokens_per_second / figures.raw.tokens_per_second
    assert min(figures.documents.n_texts) >= LEAST_TEXTS
    assert len(figures.one_query.seconds) >= LEAST_QUERIES
    assert 0 < figures.one_query.median <= figures.one_query.p95 <= max(figures.one_query.seconds)
    # The first round's texts follow those of the trial; the queries' tokens include the prompt.
    with Embedder(small_qwen3) as model:
        documents = itertools.islice(sample_texts.documents(), 2 + LEAST_TEXTS, None)
        first = list(itertools.islice(documents, figures.documents.n_texts[0]))
        assert figures.documents.n_tokens[0] == model.count_tokens(first).sum()
        assert figures.query_prompt == model.prompts["query"]
        prompt = len(model.token_ids(figures.query_prompt)) - 2
        assert min(figures.queries.n_tokens) > prompt * figures.queries.n_texts[0]


def test_progress_ends_at_the_total(measured: tuple[Measurement, list[tuple[int, int]]]):
    """Each step is reported once."""
    assert measured[1] == [(done, STEPS) for done in range(STEPS + 1)]


def test_encoder_is_measured(minilm_q8: Path):
    """An encoder without prompts and KV cache, for at most 512 tokens."""
    figures = measure(minilm_q8, seconds=0.2)
    assert (figures.strategy, figures.query_prompt) == ("plain", None)
    assert figures.raw.tokens_per_second > 0 and figures.raw_share > 0


def test_own_texts_are_measured(small_qwen3: Path, tmp_path: Path):
    """Every round takes the same first texts; long texts count up to the token limit."""
    texts = ["é 한 😉", "two", "three"]
    figures = measure(small_qwen3, texts=texts, seconds=0.1)
    with Embedder(small_qwen3) as model:
        assert figures.documents.n_tokens == (int(model.count_tokens(texts).sum()),) * ROUNDS
    assert figures.documents.n_texts == (3,) * ROUNDS


@pytest.mark.parametrize("options", [{"texts": []}, {"seconds": 0}, {"seconds": float("nan")}])
def test_invalid_options_are_refused(options: dict[str, object], small_qwen3: Path):
    """No texts, and seconds that are not above 0."""
    with pytest.raises(OptionError):
        measure(small_qwen3, **options)  # type: ignore[arg-type]


def test_bench_command(small_qwen3: Path, tmp_path: Path):
    """`qgguf bench` prints a table or a JSON object; a FILE without texts is a usage error."""
    (tmp_path / "é.txt").write_text("first é\nsecond 한\n\n", "utf-8")
    common = ["bench", str(small_qwen3), "--texts", "é.txt", "--seconds", "0.1", "--threads", "1"]
    table = qgguf(*common, home=tmp_path)
    assert (table.returncode, table.stderr) == (0, b"")
    words = [line.split()[0] for line in table.stdout.decode().splitlines()]
    assert words == "model machine versions runs opened documents queries one raw reached peak".split()
    done = qgguf(*common, "--json", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    (line,) = done.stdout.decode().splitlines()
    figures = json.loads(line)
    assert figures["documents"]["n_texts"] == [3] * ROUNDS
    assert figures["machine"]["cores"] == this_machine().cores
    assert set(figures["versions"]) == {"qgguf", "python", "llama-cpp-python", "numpy"}
    for name in ("documents", "queries", "raw"):
        assert figures[name]["tokens_per_second"] > 0
    assert figures["one_query"]["median"] <= figures["one_query"]["p95"]
    (tmp_path / "none.txt").touch()
    refused = qgguf("bench", str(small_qwen3), "--texts", "none.txt", home=tmp_path)
    assert refused.returncode == 2 and b"none.txt has no texts" in refused.stderr


def test_prompt_speed_is_measured(small_qwen3: Path):
    """It can be measured again until it is closed, and keeps its model open."""
    passes = PromptProcessing(NativeModel(small_qwen3, read_spec(small_qwen3), "cpu"), threads=1)
    assert passes.seconds() > 0 and passes.seconds() > 0
    passes.close()
    with pytest.raises(NativeError, match="closed"):
        passes.seconds()


MEMORY_OF_AN_ARRAY = """
import numpy as np
from qgguf.hardware.process_memory import peak_resident_bytes, resident_bytes
before = resident_bytes()
block = np.ones(64_000_000, np.uint8)
print(resident_bytes() - before, peak_resident_bytes())
"""


def test_process_memory_is_measured(tmp_path: Path):
    """An array of 64 MB is seen, and the peak is not below it."""
    if resident_bytes() is None:
        pytest.skip("unknown on this system")
    # In a fresh process: this one may reuse memory that earlier tests freed.
    done = run_code(MEMORY_OF_AN_ARRAY, home=tmp_path)
    assert done.returncode == 0, done.stderr
    growth, peak = map(int, done.stdout.split())
    assert growth > 32_000_000 and peak >= 64_000_000


def test_documents_have_the_stated_lengths(qwen3_f16: Path):
    """10 to 150 tokens, all different, repeatable, with hardly any shared beginnings."""
    texts = list(itertools.islice(sample_texts.documents(), 600))
    assert len(set(texts)) == 600 and texts == list(itertools.islice(sample_texts.documents(), 600))
    assert texts != list(itertools.islice(sample_texts.documents(1), 600))
    assert all(sign in "".join(texts) for sign in "é한😉")
    with Embedder(qwen3_f16, strategy="last_rows") as model:
        ids = [np.array(model.token_ids(text), np.int32) for text in texts]
    n_tokens = np.array([len(one) for one in ids])
    assert n_tokens.min() >= 10 and np.mean(n_tokens > 150) < 0.01 and 60 < n_tokens.mean() < 90
    shared = sum(common_length(a, b) for a, b in itertools.pairwise(sorted(ids, key=sort_key)))
    assert shared < 0.05 * n_tokens.sum()


def test_short_texts_and_queries_have_the_stated_lengths():
    """3 to 10 words, and questions of up to 9; all different."""
    for texts, most in ((sample_texts.short_texts(), 10), (sample_texts.queries(), 9)):
        some = list(itertools.islice(texts, 5000))
        assert len(set(some)) == 5000
        assert {3 <= len(text.split()) <= most for text in some} == {True}
