"""Ids with changed tokenizers: added tokens and their flags, long words, control tokens in prompts, files of others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qgguf import Embedder
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.converter import convert_checkpoint
from qgguf.convert.tokenizer import tokenizer_entries
from qgguf.errors import CheckpointError, ModelFileError, TextError
from qgguf.gguf_format import keys
from qgguf.gguf_format.reader import parse_header
from qgguf.gguf_format.writer import header_bytes
from qgguf.model.prompts import NO_PROMPT, Prompt
from qgguf.tokenization.control_tokens import looks_like_control
from qgguf.tokenization.hugging_face import HuggingFaceTokenizer, hugging_face_tokenizer
from tests.support.bert_checkpoints import bert_tokenizer
from tests.support.checkpoints import TOKENIZER_CONFIG, small_tokenizer_json
from tests.support.comparing import cosines

_SMALL_QWEN3 = small_tokenizer_json(300)


def small_qwen3() -> dict[str, Any]:
    return json.loads(_SMALL_QWEN3)


TOKENIZERS: dict[str, Callable[[], dict[str, Any]]] = {"wordpiece": bert_tokenizer, "bpe": small_qwen3}


def header_of(tokenizer: dict[str, Any], kind: str, folder: Path, n_padding: int = 0) -> dict[str, Any]:
    """The metadata that a converted file has for a tokenizer.json."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if kind == "bpe":
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (folder / "config.json").write_text("{}")
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    entries = tokenizer_entries(Checkpoint(folder, "x"), kind, max(ids) + 1 + n_padding)
    data = header_bytes(entries, [])
    return dict(parse_header("x", len(data), lambda start, stop: data[start:stop]).metadata)


def built(header: dict[str, Any]) -> HuggingFaceTokenizer:
    tokenizer = hugging_face_tokenizer(header)
    assert tokenizer is not None
    return tokenizer


def reference_of(tokenizer: dict[str, Any]) -> Callable[[str], list[int]]:
    """A text's ids by Hugging Face, with control tokens under names that occur in no text."""
    changed = json.loads(json.dumps(tokenizer))
    for added in changed["added_tokens"]:
        if added["special"] or looks_like_control(added["content"]):
            added["content"] = "\ufdd0" * 9 + str(added["id"])
    changed["post_processor"] = None
    reference = Tokenizer.from_str(json.dumps(changed))
    # It numbers the tokens that its vocabulary lacks anew.
    id_of = {token["content"]: token["id"] for token in changed["added_tokens"]} | changed["model"]["vocab"]
    text_of = {number: token.content for number, token in reference.get_added_tokens_decoder().items()}
    return lambda text: [
        id_of[text_of.get(number) or reference.id_to_token(number)] for number in reference.encode(text).ids
    ]


def with_added(tokenizer: dict[str, Any], tokens: list[dict[str, Any]]) -> dict[str, Any]:
    """The tokenizer with more added tokens; one whose text is in the vocabulary keeps its id."""
    vocabulary, taken = tokenizer["model"]["vocab"], {token["content"] for token in tokenizer["added_tokens"]}
    next_id = max([*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])]) + 1
    for token in tokens:
        if token["content"] in taken:
            continue
        taken.add(token["content"])
        number = vocabulary.get(token["content"], next_id)
        next_id = max(next_id, number + 1)
        tokenizer["added_tokens"].append({"id": number, **token})
    return tokenizer


def added(content: str, **flags: bool) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"content": content, **plain, **flags}


WORDS = [
    "[ENT]", "WORD", "covid-19", "c++", "é", "e\u0301", "한국", "😉", "<code>", "the", "map", "Map", "##ing", "▁x",
    "a b", "  ", "\n\n", "<|user|>", "<mask>", "x" * 120, "ing",
]  # fmt: skip
TOKENS = st.lists(
    st.builds(
        added,
        st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)),
        single_word=st.booleans(),
        lstrip=st.booleans(),
        rstrip=st.booleans(),
        normalized=st.booleans(),
        special=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)
GLUE = ["", " ", "  ", "\t", "\n", "x", "é", "1", "-", "_", "한", "😉", "the ", " mapping", "Ing", "\u0301"]


def texts_of(words: list[str]) -> st.SearchStrategy[str]:
    pieces = st.one_of(st.sampled_from([*words, *WORDS, *GLUE]), st.text(st.characters(exclude_categories=["Cs"])))
    return st.lists(pieces, max_size=8).map("".join)


def found(tokenizer: HuggingFaceTokenizer, text: str) -> list[int] | None:
    """Our ids; None where we refuse the text."""
    try:
        return tokenizer.ids(text).tolist()
    except TextError:
        return None


def found_by(reference: Callable[[str], list[int]], text: str) -> list[int] | None:
    """Hugging Face's ids; None where its Rust code panics."""
    try:
        return reference(text)
    except BaseException as error:
        assert type(error).__name__ == "PanicException"
        return None


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=80)
@given(data=st.data())
def test_any_added_tokens(kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    """With any added tokens and flags a converted file gives Hugging Face's ids, or it is refused."""
    tokens = data.draw(TOKENS)
    tokenizer = with_added(TOKENIZERS[kind](), tokens)
    if kind == "wordpiece":
        tokenizer["normalizer"]["lowercase"] = data.draw(st.booleans())
        tokenizer["normalizer"]["strip_accents"] = data.draw(st.sampled_from([None, True, False]))
        tokenizer["model"]["max_input_chars_per_word"] = data.draw(st.sampled_from([1, 5, 100, 200]))
    try:
        header = header_of(tokenizer, kind, tmp_path_factory.mktemp("variant"), data.draw(st.integers(0, 3)))
    except CheckpointError:
        return
    ours, theirs = built(header), reference_of(tokenizer)
    assume(not has_equal_tokens(tokenizer))
    for _ in range(8):
        text = data.draw(texts_of([token["content"] for token in tokens]))
        assert found(ours, text) == found_by(theirs, text), ascii(text)


def has_equal_tokens(tokenizer: dict[str, Any]) -> bool:
    """Whether added tokens are equal after normalisation: Hugging Face's ids of them differ from process to process."""
    normalizer = Tokenizer.from_str(json.dumps(tokenizer)).normalizer
    texts = [token["content"] for token in tokenizer["added_tokens"] if token["normalized"]]
    return len({normalizer.normalize_str(text) for text in texts}) < len(texts)


@pytest.mark.parametrize(("one", "other"), [("Zap", "zap"), ("\xa0\xa0", "  "), ("é", "e\u0301")])
def test_equal_added_tokens_have_one_id(one: str, other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Of added tokens that are equal after normalisation the first is found in every process, and the log states it."""
    tokenizer = with_added(bert_tokenizer(), [added(one), added(other)])
    first, second = (token["id"] for token in tokenizer["added_tokens"][-2:])
    header = header_of(tokenizer, "wordpiece", tmp_path)
    for _ in range(12):
        assert built(header).ids(f"{one} a {other}").tolist().count(first) == 2
        assert second not in built(header).ids(f"{one} a {other}")
    assert repr(one) in caplog.text and "same text after normalisation" in caplog.text
    assert {*found_in_processes(tokenizer, one, other)} == {first, second}


def found_in_processes(tokenizer: dict[str, Any], one: str, other: str) -> list[int]:
    """Hugging Face's first ids of a text in 40 tokenizers; each has a random order, as each process has."""
    return [reference_of(tokenizer)(f"{one} a {other}")[0] for _ in range(40)]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_file_without_kept_parts_has_plain_added_tokens(kind: str, tmp_path: Path):
    """A file of another converter shows which tokens were added, and they are found in texts."""
    tokens = [added("[ENT]", normalized=kind == "wordpiece"), added("c++é", normalized=kind == "wordpiece")]
    tokenizer = with_added(TOKENIZERS[kind](), tokens)
    header = header_of(tokenizer, kind, tmp_path)
    del header[keys.TOKENIZER]
    ours, theirs = built(header), reference_of(tokenizer)
    for text in ("the [ENT] was here", "x[ENT]c++é한", "[ent] C++É 😉", "ENT c++", "[SEP] <|im_end|>", ""):
        assert ours.ids(text).tolist() == theirs(text)


def test_a_long_word_is_cut_where_the_checkpoint_cuts_it(tmp_path: Path):
    """max_input_chars_per_word is the checkpoint's; in files of others it is 100."""
    tokenizer = bert_tokenizer()
    tokenizer["model"]["max_input_chars_per_word"] = 200
    header = header_of(tokenizer, "wordpiece", tmp_path)
    assert len(built(header).ids("x " + "ab" * 75)) == 151
    del header[keys.TOKENIZER]
    assert built(header).ids("x " + "ab" * 75).tolist()[1:] == [1]


# Control tokens


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_control_tokens_of_a_prompt_are_tokens(kind: str, tmp_path: Path):
    """A prompt's control tokens are the tokens, those named in the text are letters."""
    tokenizer = TOKENIZERS[kind]()
    name = {"wordpiece": "[MASK]", "bpe": "<|im_start|>"}[kind]
    ours, letters = built(header_of(tokenizer, kind, tmp_path)), reference_of(tokenizer)
    whole = Tokenizer.from_str(json.dumps(tokenizer))
    for before in (f"{name}user\nQuery: ", f"é{name}", f"{name}{name} 한 ", "no control token: "):
        for text in ("how tall é 한 😉?", ""):
            expected = whole.encode(before + text, add_special_tokens=False).ids
            assert ours.ids(text, Prompt(before)).tolist() == expected
            assert ours.ids("", Prompt(before + text)).tolist() == expected
        spelled = ours.ids(f"is {name} here", Prompt(before)).tolist()
        assert spelled.count(whole.token_to_id(name)) == before.count(name)
    text = f"a {name} b"
    expected = letters(text)
    assert ours.ids(text).tolist() == expected
    assert ours.ids(text, NO_PROMPT).tolist() == expected
    assert ours.ids("", Prompt("", text)).tolist() == expected, "the words of an instruction are a caller's"


def test_a_text_cannot_spell_the_name_that_prompts_use_inside(tmp_path: Path):
    """The name under which a control token is known inside differs in each process and tokenizer."""
    header = header_of(small_qwen3(), "bpe", tmp_path)
    first, second = built(header), built(header)
    names = set(first._names.values())
    assert not names & set(second._names.values())
    (one, *_) = names
    assert second.ids(one).tolist() == reference_of(small_qwen3())(one)


def test_a_checkpoints_own_prompt_holds_control_tokens(small_qwen3_checkpoint: Path, tmp_path: Path):
    """A query prompt with control tokens gives the ids of the checkpoint's tokenizer; an instruction's words do not."""
    checkpoint = tmp_path / "mine"
    shutil.copytree(small_qwen3_checkpoint, checkpoint)
    prompts = {"query": "<|im_start|>user\nQuery: ", "document": ""}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    path = convert_checkpoint(checkpoint, tmp_path / "mine.gguf", quant="F16")
    whole = Tokenizer.from_str((checkpoint / "tokenizer.json").read_text("utf-8"))
    text = "how tall is it é 한 😉"
    with Embedder(path) as model:
        expected = whole.encode(prompts["query"] + text).ids
        assert model.count_tokens(text, prompt_name="query").tolist() == [len(expected)]
        assert model._engine.tokenizer.ids(text, Prompt(prompts["query"])).tolist() == expected
        # One batch of the same tokens, given as a prompt and as plain ids.
        expected_vector = model._engine.run(model._engine.call([np.array(expected, np.int32)], np.empty(0, np.int32)))
        vector = model.encode_query(text, normalize_embeddings=False)
        assert cosines(vector[None], expected_vector).min() > 0.9999
        assert cosines(model.encode(prompts["query"] + text)[None], expected_vector).max() < 0.999


@pytest.mark.parametrize("fixture", ["small_qwen3", "minilm_q8"])
def test_the_models_file_is_not_needed_after_opening(fixture: str, request: pytest.FixtureRequest, tmp_path: Path):
    """Deleted or replaced by another model, the open model tokenises any text as before."""
    path = tmp_path / "model.gguf"
    shutil.copyfile(request.getfixturevalue(fixture), path)
    texts = ["\ua7cb", "é 한 😉", "plain", "\U00010d40\U000105d2\u0307", "x" * 3000]
    with Embedder(path) as model:
        before = [model.token_ids(text) for text in texts]
        vectors = model.encode(texts)
        path.unlink()
        assert [model.token_ids(text) for text in texts] == before
        path.write_bytes(b"GGUF, but another one")
        assert [model.token_ids(text) for text in texts] == before
        assert cosines(model.encode(texts), vectors).min() > 0.9999


# Files that cannot be right


@pytest.mark.parametrize(
    "kept",
    ["", "[]", "{}", "null", '{"model": 3}', '{"qgguf_outside_vocab": [], "qgguf_texts": {}}',
     '{"model": {"type": "X"}, "qgguf_outside_vocab": [], "qgguf_texts": {}}',
     '{"model": {"type": "WordPiece"}, "normalizer": {"type": "?"}, "qgguf_outside_vocab": [], "qgguf_texts": {}}'],
)  # fmt: skip
def test_unreadable_kept_parts_are_refused(kept: str, tmp_path: Path):
    """A file whose own key was damaged is refused with one line."""
    header = header_of(bert_tokenizer(), "wordpiece", tmp_path) | {keys.TOKENIZER: kept}
    with pytest.raises(ModelFileError, match=r"tokenizer.*(cannot be read|cannot be built)"):
        hugging_face_tokenizer(header)


def test_merges_that_lead_to_no_token_are_ignored(tmp_path: Path):
    """A vocabulary with merges of tokens that it lacks, which llama.cpp loads, opens here too."""
    header = header_of(small_qwen3(), "bpe", tmp_path)
    expected = built(header).ids("é 한 😉 the end").tolist()
    del header[keys.TOKENIZER]
    header[keys.MERGES] = [*header[keys.MERGES], "zz qq", "t h e"]
    assert built(header).ids("é 한 😉 the end").tolist() == expected
