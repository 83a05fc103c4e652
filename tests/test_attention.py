"""The attention of a model, its pooling and its end token: what the file declares, what its family has, what is chosen.

The vectors are compared with a Llama in numpy.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.errors import ModelFileError, OptionError
from qgguf.gguf_format.reader import read_header
from qgguf.model.from_gguf import spec_of
from qgguf.model.spec import Pooling, SpecChoices
from qgguf.native.context import NativeContext
from qgguf.native.model import NativeModel
from qgguf.native.strategy import Strategy
from tests.support.comparing import cosines
from tests.support.llama_twin import VOCAB, LlamaTwin
from tests.support.processes import qgguf

TEXTS = [np.random.default_rng(n).integers(0, VOCAB, n).astype(np.int32) for n in (1, 2, 7, 30, 61)]


@pytest.fixture(scope="module")
def twin() -> LlamaTwin:
    return LlamaTwin()


def expected(twin: LlamaTwin, *, causal: bool, pooling: Pooling) -> np.ndarray:
    rows = [twin.rows(ids, causal=causal) for ids in TEXTS]
    if pooling is Pooling.MEAN:
        return np.array([one.mean(axis=0) for one in rows])
    return np.array([one[0 if pooling is Pooling.CLS else -1] for one in rows])


def computed(path: Path, choices: SpecChoices) -> np.ndarray:
    spec = spec_of(read_header(path), path, choices)
    assert spec.pooling is not None
    model = NativeModel(path, spec, "cpu")
    context = NativeContext(model, cells=256, threads=2, pooling=spec.pooling, strategy=Strategy.PLAIN)
    try:
        return context.vectors(TEXTS)
    finally:
        context.close()
        model.close()


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST])
@pytest.mark.parametrize(
    ("architecture", "metadata", "attention", "causal"),
    [
        ("llama", {}, None, True),
        ("llama", {}, "bidirectional", False),
        ("llama", {"attention__causal": False}, None, False),
        ("llama", {"attention__causal": False}, "causal", True),
        ("llama-embed", {}, None, False),
        ("llama-embed", {"attention__causal": True}, None, True),
        ("llama-embed", {}, "causal", True),
    ],
)
def test_vectors_have_the_right_attention(
    architecture: str,
    metadata: dict[str, Any],
    attention: str | None,
    causal: bool,
    pooling: Pooling,
    twin: LlamaTwin,
    tmp_path: Path,
):
    """The choice counts before the header, and the header before the family; every text equals numpy's."""
    path = twin.save(tmp_path / "model.gguf", architecture, **metadata)
    vectors = computed(path, SpecChoices.of(pooling.name.lower(), attention, ""))
    assert cosines(vectors, expected(twin, causal=causal, pooling=pooling)).min() >= 0.99999
    # The other attention gives other vectors, so that the comparison shows which one was computed.
    assert cosines(vectors, expected(twin, causal=not causal, pooling=pooling)).min() < 0.99


def test_llama_embed_has_its_pooling_and_attention(twin: LlamaTwin, tmp_path: Path):
    """A file as llama.cpp's converter writes it, without attention and pooling, is opened as the model card says."""
    path = twin.save(tmp_path / "model.gguf", "llama-embed", general__name="Llama Embed Nemotron 8B é")
    with Embedder(path, threads=1) as model:
        assert (model.spec.causal, model.spec.pooling) == (False, Pooling.MEAN)
        assert model.spec.is_decoder and "KV cache (CPU)" in {part.name for part in model.plan.parts}
        assert model.prompts["query"].endswith("\nQuery: ") and model.prompts["document"] == ""


def last_token_file(twin: LlamaTwin, folder: Path, **metadata: Any) -> Path:
    tokens = [f"token{number}" for number in range(VOCAB - 2)] + ["</s>", "<é>"]
    given = {"tokenizer__ggml__tokens": tokens, "tokenizer__ggml__eos_token_id": VOCAB - 2, "pooling_type": 3}
    return twin.save(folder / "model.gguf", "llama", **given | metadata)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "qgguf" and one.levelno >= logging.WARNING]


def suffix(path: Path, **choices: str) -> list[int]:
    with Embedder(path, threads=1, **choices) as model:
        return model.token_ids("")


def test_end_token_of_known_last_token_models(twin: LlamaTwin, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A file that says nothing of an end token gets that of its model card, also without a pooling."""
    path = last_token_file(twin, tmp_path, general__name="E5 Mistral 7b Instruct", pooling_type=0)
    assert suffix(path)[-1:] == [VOCAB - 2]
    assert not warnings_of(caplog)


def test_unknown_last_token_model_warns(twin: LlamaTwin, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """One that says nothing, of an unknown name, warns once when it is opened, and `end_token` settles it."""
    path = last_token_file(twin, tmp_path, general__name="한 model")
    with Embedder(path, threads=1) as model:
        assert "end_token=" in model.spec.warnings[0]
    assert len(warnings_of(caplog)) == 1
    caplog.clear()
    assert suffix(path, end_token="</s>") == [VOCAB - 2]
    assert suffix(path, end_token="<é>") == [VOCAB - 1]
    assert not warnings_of(caplog)


@pytest.mark.parametrize(("chosen", "ids"), [("", []), ("<é>", [VOCAB - 1]), ("</s>", [VOCAB - 2])])
def test_chosen_end_token_replaces_the_files(chosen: str, ids: list[int], twin: LlamaTwin, tmp_path: Path):
    """The file asks for </s>; the caller knows better."""
    path = last_token_file(twin, tmp_path, tokenizer__ggml__add_eos_token=True)
    assert suffix(path) == [VOCAB - 2]
    if ids:
        assert suffix(path, end_token=chosen) == ids
    else:
        spec = spec_of(read_header(path), path, SpecChoices.of(None, None, chosen))
        assert spec.end_token_id is None and not spec.warnings


def test_command_line_opens_what_a_file_does_not_declare(twin: LlamaTwin, tmp_path: Path):
    """The error names --pooling; with it the vectors are Python's, and inspect, plan and bench take it as well."""
    path = twin.save(tmp_path / "é.gguf", "llama", tokenizer__ggml__eos_token_id=VOCAB - 1)
    ending = f"token{VOCAB - 2}"
    chosen = ["--pooling", "last", "--attention", "bidirectional", "--end-token", ending]
    with Embedder(path, threads=1, pooling="last", attention="bidirectional", end_token=ending) as model:
        expected_vector = model.encode("token1")
    refused = qgguf("embed", "-m", str(path), "token1", home=tmp_path)
    assert refused.returncode == 1 and b"--pooling last" in refused.stderr and len(refused.stderr.splitlines()) == 1
    given = qgguf("embed", "-m", str(path), "--threads", "1", *chosen, "-f", "jsonl", "token1", home=tmp_path)
    assert np.array_equal(np.array(json.loads(given.stdout)["embedding"], np.float32), expected_vector), given.stderr
    shown = json.loads(qgguf("inspect", str(path), "--json", *chosen, home=tmp_path).stdout)
    assert (shown["pooling"], shown["causal"], shown["end_token"]) == ("last", False, ending)
    assert b"--pooling last" in qgguf("plan", str(path), home=tmp_path).stderr
    plans = [json.loads(qgguf("plan", str(path), "--json", "--pooling", "last", *more, home=tmp_path).stdout)
             for more in ([], ["--attention", "bidirectional"])]  # fmt: skip
    assert plans[0]["parts"] != plans[1]["parts"]  # only the causal one leaves out the rows of other tokens
    bench = qgguf("bench", str(path), "--seconds", "0.1", "--threads", "1", *chosen, home=tmp_path)
    assert bench.returncode == 0 and b"documents" in bench.stdout, bench.stderr


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"attention": "both"}, "attention='both' is unknown"),
        ({"end_token": "<eos>"}, "end_token='<eos>' is no token of this model"),
        ({"pooling": "max"}, "pooling='max' is unknown"),
    ],
)
def test_wrong_choice_is_refused(choices: dict[str, str], message: str, twin: LlamaTwin, tmp_path: Path):
    """The message has the value and what may be given."""
    with pytest.raises(OptionError, match=message):
        Embedder(last_token_file(twin, tmp_path), threads=1, **choices)


def test_output_of_another_width_is_refused(twin: LlamaTwin, tmp_path: Path):
    """The rows would be read past their ends."""
    path = last_token_file(twin, tmp_path, embedding_length_out=16)
    with pytest.raises(ModelFileError, match="16"):
        Embedder(path, threads=1)


def test_unknown_query_prompt_warns_once(twin: LlamaTwin, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The first `encode_query` without a prompt names the way out; a prompt settles it."""
    path = last_token_file(twin, tmp_path, general__name="é embed instruct", tokenizer__ggml__add_eos_token=True)
    with Embedder(path, threads=1) as model:
        assert not warnings_of(caplog)
        model.encode_query("token1", prompt="token2")
        model.encode_document("token1")
        assert not warnings_of(caplog)
        model.encode_query("token1")
        model.encode_query("token3")
        assert len(warnings_of(caplog)) == 1 and "prompts=" in warnings_of(caplog)[0]
    caplog.clear()
    with Embedder(path, threads=1, prompts={"query": "token5"}) as model:
        model.encode_query("token1")
    assert not warnings_of(caplog)
