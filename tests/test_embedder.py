"""Embedder: the right vectors, shapes and errors, for one text or a million, from any thread."""

import logging
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_cpp import LLAMA_POOLING_TYPE_LAST, LLAMA_POOLING_TYPE_MEAN, Llama

from qgguf import Embedder
from qgguf.batching import sort_key
from qgguf.errors import (
    DeviceError,
    DimensionError,
    ModelFileError,
    NativeError,
    OptionError,
    PromptError,
    TextError,
    TextTooLongError,
)
from qgguf.hardware.process_memory import resident_bytes
from qgguf.memory.planner import PlanRequest
from tests.support.comparing import cosines
from tests.support.gguf_bytes import QWEN3, gguf, save
from tests.support.native import open_engine, open_model
from tests.support.processes import run_code

TEXTS = ["The cat sat.", "é 한 😉", "", "def f(x): return x", "नमस्ते दुनिया", "a " * 300, "\n\t ", "e\u0301"]


@pytest.fixture(scope="module")
def qwen3(small_qwen3):
    with Embedder(small_qwen3) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def minilm(minilm_f16):
    with Embedder(minilm_f16) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def weights(small_qwen3):
    with open_model(small_qwen3) as model:
        yield model


@pytest.fixture(scope="module", params=["qwen3", "minilm"])
def either(request):
    return request.getfixturevalue(request.param)


# The right vectors, by another implementation


@pytest.mark.parametrize(
    ("model", "pooling"), [("small_qwen3", LLAMA_POOLING_TYPE_LAST), ("minilm_f16", LLAMA_POOLING_TYPE_MEAN)]
)
def test_vectors_equal_the_plain_path_of_llama_cpp(model, pooling, request):
    """The embed method of llama-cpp-python, with all tokens as outputs, gives the same vectors from the same ids."""
    path = request.getfixturevalue(model)
    plain = Llama(str(path), embedding=True, pooling_type=pooling, n_ctx=512, n_batch=512, n_ubatch=512, verbose=False)
    try:
        with Embedder(path) as embedder:
            short = [text for text in TEXTS if 0 < embedder.count_tokens(text)[0] <= 256]
            expected = []
            for text in short:
                ids = embedder.token_ids(text)
                plain.tokenize = lambda *_args, _ids=ids, **_options: _ids
                expected.append(plain.embed(text))
            found = embedder.encode(short)
    finally:
        plain.close()

    assert cosines(found, expected).min() > 0.9999


def test_batch_gives_the_vectors_of_single_texts(either):
    """A, B, A in one batch and A alone give the same vectors, in the order of the texts."""
    texts = [TEXTS[0], TEXTS[5], TEXTS[0], *TEXTS]

    together = either.encode(texts)
    alone = np.stack([either.encode(text) for text in texts])

    assert cosines(together, alone).min() > 0.9999
    np.testing.assert_array_equal(together[0], together[2])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(max_size=40), max_size=80))
def test_any_list_of_texts_gives_unit_vectors_in_order(qwen3, texts):
    """Each text has a finite row of length 1, equal to the row it has alone."""
    found = qwen3.encode(texts)

    assert found.shape == (len(texts), qwen3.dims)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    if texts:
        assert cosines(found[-1], qwen3.encode(texts[-1]))[0] > 0.9999


def test_two_runs_of_one_call_give_the_same_bytes(small_qwen3):
    """The bytes do not depend on what was computed before."""
    with Embedder(small_qwen3) as first, Embedder(small_qwen3) as second:
        first.encode("something else " * 3000)
        assert first.encode(TEXTS).tobytes() == second.encode(TEXTS).tobytes()


def test_long_texts_span_micro_batches(qwen3, weights):
    """A text of thousands of tokens, computed in slices, has the vector of llama.cpp's pooling."""
    from qgguf.model.spec import Pooling
    from qgguf.native.context import NativeContext
    from qgguf.native.strategy import Strategy

    ids = np.array(qwen3.token_ids("word é 한 " * 700), np.int32)
    assert len(ids) > 2048
    cells = 8192
    texts = sorted([ids, ids[-5:], ids[:1]], key=sort_key)
    found = []
    for strategy in Strategy:
        context = NativeContext(weights, cells=cells, threads=2, pooling=Pooling.LAST, strategy=strategy)
        found.append(context.vectors(texts))
        context.close()

    assert cosines(found[0], found[2]).min() > 0.9999
    assert cosines(found[1], found[2]).min() > 0.9999


def test_end_token_is_there_exactly_once(qwen3):
    """It ends every text, the empty one too, and a text that spells it is plain text."""
    end = qwen3.spec.end_token_id

    for text in ["", "a", "<|endoftext|>", "a <|endoftext|>", "<|im_start|>user"]:
        ids = qwen3.token_ids(text)
        assert ids.count(end) == 1
        assert ids[-1] == end
    assert len(qwen3.token_ids("<|endoftext|>")) > 2


def test_composed_and_decomposed_text_are_equal(qwen3):
    """NFC makes e + U+0301 into é."""
    np.testing.assert_array_equal(qwen3.encode("e\u0301"), qwen3.encode("\u00e9"))


# Shapes and arguments


def test_str_gives_one_vector_and_list_gives_a_matrix(either):
    """The result is 1-D for a str and 2-D for any iterable, an empty list included."""
    assert either.encode("é").shape == (either.dims,)
    assert either.encode(["é"]).shape == (1, either.dims)
    assert either.encode(text for text in "ab").shape == (2, either.dims)
    assert either.encode([]).shape == (0, either.dims)
    assert either.encode([]).dtype == np.float32
    assert either.embed("é").vectors.shape == (1, either.dims)


def test_prompts_go_before_the_text(qwen3):
    """encode_query is encode with the query prompt; encode_document uses none here."""
    query = qwen3.prompts["query"]

    np.testing.assert_array_equal(qwen3.encode_query("한"), qwen3.encode(query + "한"))
    np.testing.assert_array_equal(qwen3.encode("한", prompt_name="query"), qwen3.encode(query + "한"))
    np.testing.assert_array_equal(qwen3.encode("한", prompt="x: "), qwen3.encode("x: 한"))
    np.testing.assert_array_equal(qwen3.encode_document("한"), qwen3.encode("한"))
    np.testing.assert_array_equal(
        qwen3.encode_query("한", instruction="Sort"), qwen3.encode("Instruct: Sort\nQuery:한")
    )


def test_model_without_prompts_encodes_queries_without(minilm):
    """MiniLM has no prompts, and no instruction template."""
    np.testing.assert_array_equal(minilm.encode_query("한"), minilm.encode("한"))
    with pytest.raises(PromptError):
        minilm.encode("한", instruction="Sort")


def test_own_prompts_are_added(small_qwen3):
    """Prompts given at opening are added to the model's; the default one is used by a plain encode."""
    with Embedder(small_qwen3, prompts={"mine": "é: "}, default_prompt_name="mine") as embedder:
        assert "query" in embedder.prompts
        np.testing.assert_array_equal(embedder.encode("한"), embedder.encode("é: 한", prompt=""))
    with pytest.raises(PromptError, match="default_prompt_name"):
        Embedder(small_qwen3, default_prompt_name="none such")


def test_matryoshka_slices_then_normalises(qwen3):
    """truncate_dim gives the first dims of the vector at length 1."""
    whole = qwen3.encode(TEXTS, normalize_embeddings=False)

    for dims in (32, 33, qwen3.dims):
        cut = qwen3.encode(TEXTS, truncate_dim=dims)
        np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
        assert cosines(cut, whole[:, :dims]).min() > 0.999999
    for dims in (31, 0, -1, qwen3.dims + 1, 9999):
        with pytest.raises(DimensionError, match=f"32 to {qwen3.dims}"):
            qwen3.encode("é", truncate_dim=dims)


def test_truncate_dim_at_opening_is_the_default(small_qwen3):
    """The property `dims` has it, and a call may name another."""
    with Embedder(small_qwen3, truncate_dim=48) as embedder:
        assert embedder.dims == 48
        assert embedder.encode("é").shape == (48,)
        assert embedder.encode("é", truncate_dim=64).shape == (64,)


def test_cut_of_a_model_not_trained_for_it_warns_once(minilm_q8, caplog):
    """MiniLM's dims can be cut; one warning states that quality is lost."""
    with Embedder(minilm_q8) as embedder:
        embedder.encode("é", truncate_dim=128)
        embedder.encode("é", truncate_dim=64)

    assert [record for record in caplog.records if "not trained to be cut" in record.message][1:] == []
    assert "not trained to be cut" in caplog.text


def test_precisions_are_of_unit_vectors(qwen3):
    """int8 and bits are those of the unit vectors; int8 without unit length is refused."""
    unit = qwen3.encode(TEXTS)

    assert cosines(qwen3.encode(TEXTS, precision="int8"), unit).min() > 0.999
    np.testing.assert_array_equal(qwen3.encode(TEXTS, precision="ubinary"), np.packbits(unit > 0, axis=1))
    assert qwen3.encode(TEXTS, precision="binary").dtype == np.int8
    with pytest.raises(OptionError, match="normalize_embeddings"):
        qwen3.encode("é", precision="int8", normalize_embeddings=False)
    with pytest.raises(OptionError, match="fp4"):
        qwen3.encode("é", precision="fp4")


def test_similarity_ranks_the_answer_first(minilm):
    """The real model ranks the right answer first."""
    question = minilm.encode_query("Where do penguins live?")
    answers = minilm.encode_document(["Stocks fell on Monday.", "Penguins are found in Antarctica.", "Il pleut."])

    assert minilm.similarity(question, answers).argmax() == 1


# Length


def test_cut_is_reported(minilm, caplog):
    """A warning counts the cut texts, `embed` marks each, and the vector is that of the beginning."""
    long = "word " * 400

    found = minilm.embed(["short", long])

    assert found.n_tokens.tolist() == [3, 402]
    assert found.truncated.tolist() == [False, True]
    assert "1 of 2 texts are longer than 256 tokens: text 1 (402)" in caplog.text
    np.testing.assert_array_equal(found.vectors[1], minilm.encode("word " * 254))


def test_cut_can_be_refused(minilm_q8):
    """truncate="error", at opening or in a call, raises an error with the texts and both numbers."""
    with Embedder(minilm_q8, truncate="error") as strict:
        with pytest.raises(TextTooLongError, match=r"1 of 3 texts .*256 tokens: text 2 \(302\)"):
            strict.encode(["a", "b", "word " * 300])
        assert strict.encode("word " * 300, truncate="end").shape == (384,)
        with pytest.raises(OptionError, match="truncate='left'"):
            strict.encode("a", truncate="left")


def test_limit_is_that_of_the_checkpoint(minilm, qwen3):
    """MiniLM declares 256; Qwen3-Embedding declares none and gets 8192."""
    assert minilm.max_tokens == 256
    assert qwen3.max_tokens == 8192


def test_limit_can_be_set_up_to_the_trained_context(minilm_q8):
    """MiniLM has 512 positions; a 513th would be read outside its table."""
    with Embedder(minilm_q8, max_tokens=512) as embedder:
        assert not embedder.embed("word " * 510).truncated[0]
        assert embedder.embed("word " * 511).truncated[0]
    with pytest.raises(OptionError, match="512"):
        Embedder(minilm_q8, max_tokens=513)
    for wrong in (0, -1, 3, True, 2.5):
        with pytest.raises(OptionError, match="max_tokens"):
            Embedder(minilm_q8, max_tokens=wrong)


def test_count_tokens_counts_the_prompt(qwen3):
    """The prompt and the end token are counted, an empty text is its end token alone."""
    plain, prompted = qwen3.count_tokens(["", "a"]), qwen3.count_tokens(["", "a"], prompt_name="query")

    assert plain[0] == 1
    assert (prompted > plain).all()


# Bad input


@pytest.mark.parametrize("bad", [b"bytes", 5, None, ["a", None], ["a", b"b"], [["a"]], [3.5]])
def test_item_that_is_not_a_text_is_refused(qwen3, bad):
    """The message names the index, for a list."""
    with pytest.raises(TextError, match=r"Text 1 is|Text 0 is|must be a str"):
        qwen3.encode(bad)


def test_lone_surrogate_is_refused_with_its_index(either):
    """It has no UTF-8 form; the message shows how to replace it."""
    with pytest.raises(TextError, match=r"Text 1 holds the lone surrogate U\+D83D"):
        either.encode(["fine", "half an emoji \ud83d"])


@pytest.mark.parametrize("text", ["\0", "a\0b", "\0" * 1000, "\ufffe\uffff", "\U0010ffff", "\x1b[0m", "\u200b" * 50])
def test_odd_characters_give_vectors(either, text):
    """NUL, noncharacters and control characters are text."""
    assert np.isfinite(either.encode(text)).all()


def test_equal_texts_are_computed_once(qwen3):
    """A million empty texts cost the tokens of one."""
    before = qwen3.stats().tokens
    found = qwen3.encode([""] * 1_000_000, truncate_dim=32)

    assert qwen3.stats().tokens - before == 1

    assert found.shape == (1_000_000, 32)
    np.testing.assert_array_equal(found[0], found[-1])


def test_more_texts_than_sequences_take_several_batches(qwen3):
    """llama.cpp holds at most 256 sequences; a thousand texts are a few batches."""
    texts = [f"text {number} é" for number in range(1000)]

    found = qwen3.encode(texts)

    assert cosines(found[777], qwen3.encode(texts[777]))[0] > 0.9999


def test_file_cut_in_half_is_refused(minilm_q8, tmp_path):
    """It is refused before llama.cpp maps it."""
    data = minilm_q8.read_bytes()
    with pytest.raises(ModelFileError, match="cut short"):
        Embedder(save(tmp_path / "half.gguf", data[: len(data) // 2]))


def test_chat_model_is_refused(tmp_path):
    """It declares no pooling, so it is not an embedding model; the message names the way out."""
    chat = {key: item for key, item in QWEN3.items() if key != "qwen3.pooling_type"} | {"general.name": "Qwen3 0.6B"}
    with pytest.raises(ModelFileError, match="declares no pooling"):
        Embedder(save(tmp_path / "chat.gguf", gguf(chat)))


def test_reranker_is_refused(tmp_path):
    """It scores pairs of texts and makes no vectors."""
    with pytest.raises(ModelFileError, match="reranker"):
        Embedder(save(tmp_path / "rank.gguf", gguf(QWEN3 | {"qwen3.pooling_type": 4})))


def test_model_without_weights_is_refused(tmp_path):
    """Its header is right, but it has no tensors."""
    with pytest.raises(ModelFileError, match="28 of 28 layers have no weights") as caught:
        Embedder(save(tmp_path / "empty.gguf", gguf(QWEN3 | {"qwen3.feed_forward_length": 64})))
    assert "\n" not in str(caught.value)


def test_unknown_architecture_is_refused(tmp_path, small_qwen3):
    """llama.cpp's reason is passed on in one line."""
    odd = (
        small_qwen3.read_bytes()
        .replace(b"qwen3.", b"qwen9.")
        .replace(b"\5\0\0\0\0\0\0\0qwen3", b"\5\0\0\0\0\0\0\0qwen9")
    )
    with pytest.raises(ModelFileError, match=r"llama\.cpp cannot load.*qwen9") as caught:
        Embedder(save(tmp_path / "odd.gguf", odd))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("model", ["small_qwen3", "minilm_q8"])
def test_any_pooling_on_any_model_runs(model, pooling, request):
    """A wrong pooling gives other vectors, never an abort."""
    with Embedder(request.getfixturevalue(model), pooling=pooling) as embedder:
        found = embedder.encode(["", "a", "word " * 3000])
    assert np.isfinite(found).all()


def test_wrong_options_are_refused(minilm_q8):
    """Each message names the valid values."""
    for wrong, kind, message in (
        ({"pooling": "max"}, OptionError, "mean, cls, last"),
        ({"device": "tpu"}, OptionError, "auto, cpu, gpu or cuda"),
        ({"threads": 0}, OptionError, "threads=0"),
        ({"truncate": "middle"}, OptionError, "truncate"),
        ({"truncate_dim": 0}, DimensionError, "1 to 384"),
    ):
        with pytest.raises(kind, match=message):
            Embedder(minilm_q8, **wrong)


def test_cuda_without_a_gpu_build_is_refused(minilm_q8):
    """There is no silent fallback to the CPU."""
    from llama_cpp import llama_supports_gpu_offload

    if llama_supports_gpu_offload():
        pytest.skip("this binding has a GPU")
    with pytest.raises(DeviceError, match="GGML_CUDA"):
        Embedder(minilm_q8, device="cuda")


# Threads and closing


def test_many_threads_get_their_own_vectors(either):
    """Ten threads use one Embedder, and every vector is that of its text."""
    texts = [[f"thread {thread} text {number} é" for number in range(6)] for thread in range(10)]
    expected = [either.encode(some) for some in texts]
    found = [None] * len(texts)

    def work(thread):
        for _ in range(3):
            found[thread] = either.encode(texts[thread])

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for mine, theirs in zip(expected, found, strict=True):
        # Their batches are shared, and the shape of a batch changes the last bits.
        assert cosines(mine, theirs).min() > 0.9999


def test_two_models_work_side_by_side(small_qwen3, minilm_q8):
    """Each gives its own vectors when calls alternate, and after the other is closed."""
    with Embedder(small_qwen3) as one:
        alone = one.encode("é")
        with Embedder(minilm_q8) as two:
            assert two.encode("é").shape == (384,)
            np.testing.assert_array_equal(one.encode("é"), alone)
        np.testing.assert_array_equal(one.encode("é"), alone)


def test_closed_embedder_raises(small_qwen3):
    """Calls after close raise; a second close does nothing."""
    embedder = Embedder(small_qwen3)
    embedder.encode("é")
    embedder.close()
    embedder.close()

    with pytest.raises(NativeError, match="closed"):
        embedder.encode("é")
    with pytest.raises(NativeError, match="closed"):
        embedder.token_ids("é")


def test_closing_while_others_encode_ends_cleanly(small_qwen3):
    """A thread in the middle of a long call gets an error, not a crash."""
    embedder = Embedder(small_qwen3)
    ended = []

    def work():
        try:
            while True:
                embedder.encode([f"text {number}" for number in range(500)])
        except NativeError as error:
            ended.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    embedder.encode("é")
    embedder.close()
    for thread in threads:
        thread.join(60)

    assert len(ended) == 3


# glibc keeps freed blocks for later, the more the busier the machine; what is measured is what was not freed.
RETURN_FREED_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CYCLES = """
import sys
from qgguf import Embedder
from qgguf.hardware.process_memory import resident_bytes
from qgguf.memory.planner import PlanRequest

def cycle():
    with Embedder(sys.argv[1]) as embedder:
        embedder.encode(["é 한 😉", "a cat", "한국어 " * 200])

for _ in range(3):
    cycle()
before = resident_bytes()
for _ in range(10):
    cycle()
print(resident_bytes() - before)
"""


@pytest.mark.skipif(resident_bytes() is None, reason="the memory of a process is not known on this system")
def test_close_frees_the_memory(minilm_f16, tmp_path):
    """Opening and closing many times does not grow a process that does nothing else."""
    done = run_code(CYCLES, str(minilm_f16), home=tmp_path, **RETURN_FREED_MEMORY)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30e6


def test_native_logs_go_to_logging(small_qwen3, capfd, caplog):
    """llama.cpp's page of loading lines is DEBUG of logger qgguf.llama, and stderr stays clean."""
    with caplog.at_level(logging.DEBUG, logger="qgguf.llama"), Embedder(small_qwen3) as embedder:
        embedder.encode("é")

    assert any(record.name == "qgguf.llama" for record in caplog.records)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_repr_names_the_model(qwen3):
    """A notebook shows name, type, dims and device."""
    assert "F16" in repr(qwen3)
    assert f"dims={qwen3.dims}" in repr(qwen3)


def test_stats_count_batches_tokens_and_calls(small_qwen3):
    """They grow with what is computed, and state the memory of the plan."""
    with Embedder(small_qwen3) as embedder:
        new = embedder.stats()
        assert (new.batches, new.tokens, new.calls, new.waiting_calls) == (0, 0, 0, 0)
        assert (new.ram_bytes, new.vram_bytes) == (embedder.plan.ram_bytes, embedder.plan.vram_bytes)
        n_tokens = embedder.count_tokens(["é", "한국어", "é"])
        embedder.encode(["é", "한국어", "é"])
        used = embedder.stats()
        assert (used.batches, used.tokens) == (1, n_tokens[0] + n_tokens[1])
        embedder.encode("word " * 3000)  # in a larger context: the count goes on
        assert embedder.stats().tokens == used.tokens + embedder.count_tokens("word " * 3000)[0]
        assert embedder.stats().calls == 0


# Strategies


@pytest.mark.parametrize("strategy", ["last_rows", "two_calls", "plain"])
def test_each_strategy_gives_the_same_vectors(qwen3, small_qwen3, strategy):
    """The three ways through llama.cpp give one vector."""
    with Embedder(small_qwen3, strategy=strategy) as embedder:
        assert cosines(embedder.encode(TEXTS), qwen3.encode(TEXTS)).min() > 0.9999


def test_strategy_is_chosen_by_a_probe_and_logged(small_qwen3, minilm, caplog):
    """It is last_rows for Qwen3, after a comparison with the plain path, and plain for an encoder."""
    with caplog.at_level(logging.INFO, logger="qgguf"), Embedder(small_qwen3) as embedder:
        assert embedder.strategy.value == "last_rows"
    assert "Strategy last_rows: cosine 0.99999" in caplog.text or "Strategy last_rows: cosine 1.0" in caplog.text
    assert minilm.strategy.value == "plain"


def test_strategy_that_does_not_fit_is_refused(minilm_q8, small_qwen3):
    """An encoder has no last row to read."""
    with pytest.raises(OptionError, match="Use 'plain'"):
        Embedder(minilm_q8, strategy="last_rows")
    with pytest.raises(OptionError, match="last_rows, two_calls or plain"):
        Embedder(small_qwen3, strategy="fast")


@pytest.mark.parametrize("n_tokens", [511, 512, 513, 520, 1025, 2049])
def test_short_rest_is_not_computed_in_half_precision(qwen3, weights, n_tokens):
    """A text a little longer than a micro-batch is as exact as one that fills it: its slices have equal sizes."""
    from qgguf.model.spec import Pooling
    from qgguf.native.context import NativeContext
    from qgguf.native.strategy import Strategy

    ids = np.array((qwen3.token_ids("word é 한 " * 420) * 2)[:n_tokens], np.int32)
    found = []
    for strategy in (Strategy.LAST_ROWS, Strategy.TWO_CALLS):  # the second without fused attention
        context = NativeContext(weights, cells=4096, threads=2, pooling=Pooling.LAST, strategy=strategy)
        found.append(context.vectors([ids]))
        context.close()

    assert 1 - cosines(*found)[0] < 4e-6


# Shared and kept beginnings

TITLE = "Annual report of the harbour office, 1897, é 한 😉. "
beginnings = st.sampled_from(["", TITLE, TITLE + "Chapter one. ", "a", "a b"])
chunks = st.lists(st.tuples(beginnings, st.text(max_size=12)).map("".join), min_size=1, max_size=90)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(chunks, st.sampled_from([None, "query", "similarity", "document"])), min_size=1, max_size=4))
def test_shared_beginnings_do_not_change_vectors(qwen3, small_qwen3, calls):
    """Texts that share beginnings, or begin with a kept prompt, have the vectors of the plain path."""
    with Embedder(small_qwen3, strategy="plain") as plain:
        for texts, prompt_name in calls:
            found = qwen3.encode(texts, prompt_name=prompt_name)
            expected = plain.encode(texts, prompt_name=prompt_name)
            assert cosines(found, expected).min() > 0.9999


def test_different_texts_of_equal_ids_have_one_vector(small_qwen3):
    """é written in two ways, and long texts that differ only after the cut, have equal vectors."""
    texts = ["e\u0301", "\u00e9", "word " * 300 + "a", "word " * 300 + "b", "x"]

    with Embedder(small_qwen3, max_tokens=64) as embedder:
        found = embedder.encode(texts)
        alone = embedder.encode("x")

    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert cosines(found[4], alone)[0] > 0.9999


def test_kept_prompt_is_computed_once(qwen3):
    """The second query with an instruction computes its own tokens only."""
    counts = [qwen3.stats().tokens]
    for text in ("first é", "second 한"):
        qwen3.encode_query(text, instruction="A new instruction of several words")
        counts.append(qwen3.stats().tokens)

    prompt = qwen3.count_tokens("", instruction="A new instruction of several words")[0]
    first, second = np.diff(counts)
    assert prompt - 2 <= first < prompt + 12  # its last tokens may join the text's first, and the end token
    assert second < 12


def test_first_query_gives_the_bytes_of_the_next(small_qwen3):
    """A vector has the same bits whether its prompt was kept or is new."""
    with Embedder(small_qwen3) as embedder:
        first, second = (embedder.encode_query(["é 한 😉", "x"]) for _ in range(2))

    assert first.tobytes() == second.tobytes()


def test_more_prompts_than_are_kept_give_right_vectors(qwen3, small_qwen3):
    """The oldest is evicted, a very long one is kept in part, and none is ever stale."""
    prompts = [f"Instruct: task {number} é\nQuery:" for number in range(7)] + ["long prompt " * 300]
    with Embedder(small_qwen3, strategy="plain") as plain:
        for prompt in [*prompts, *prompts[::-1], prompts[0]]:
            for text in ("", "한 text"):
                found, expected = qwen3.encode(text, prompt=prompt), plain.encode(text, prompt=prompt)
                assert cosines(found, expected)[0] > 0.9999


@pytest.mark.parametrize("n_tokens", [4096, pytest.param(32768, marks=pytest.mark.slow)])
def test_long_text_is_computed_in_slices(n_tokens, small_qwen3):
    """Up to the trained context, progress is reported within the text, and llama.cpp's own path agrees."""
    ids = np.arange(n_tokens, dtype=np.int32) * 7 % 2000
    found = []
    for strategy in ("last_rows", "plain"):
        with open_engine(small_qwen3, PlanRequest(max_tokens=n_tokens, threads=2), strategy) as engine:
            done: list[int] = []
            found.append(engine.run(engine.call([ids], ids[:0], done.append))[0])
            assert sum(done) == n_tokens and (strategy == "plain" or len(done) == n_tokens // 512)
    a, b = found
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999
