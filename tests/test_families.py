"""Ids and vectors of every family against Hugging Face: small checkpoints, vectors made by transformers in float32.

The checkpoints are made here, bit for bit as scripts/make_family_vectors.py made them for transformers.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from qgguf import Embedder
from tests.support.comparing import cosines
from tests.support.family_checkpoints import FAMILIES, MAX_TOKENS, TEXTS, FamilyCheckpoint
from tests.support.text_sources import CONTEXTS, blocks, locale_texts, random_texts
from tests.support.texts import GOLDEN, QUERIES

FOLDER = Path(__file__).parent / "golden"
# llama.cpp's GELU is a table of 16-bit floats: vectors of length 1 differ by up to 0.0013 in one of 64 dims.
LARGEST_DIFFERENCE = 0.003


@dataclass(frozen=True)
class Opened:
    """A family's checkpoint, its open GGUF file, and what transformers gives.

    ids      of each text, uncut
    vectors  of each text: (n_texts, dims) float32
    """

    name: str
    family: FamilyCheckpoint
    model: Embedder
    ids: list[list[int]]
    vectors: np.ndarray


every_family = pytest.mark.parametrize("opened", FAMILIES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def about() -> dict:
    return json.loads((FOLDER / "families.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    name = request.param
    family = FAMILIES[name]()
    path = family.save_gguf(tmp_path_factory.mktemp("families") / f"{name}.gguf")
    with np.load(FOLDER / "families.npz") as golden:
        ends = np.cumsum(golden[name + ".lengths"].astype(int))[:-1]
        ids = [part.tolist() for part in np.split(golden[name + ".ids"], ends)]
        vectors = golden[name + ".vectors"]
    with Embedder(path, **family.choices) as model:
        yield Opened(name, family, model, ids, vectors)


def test_stored_vectors_belong_to_these_texts_and_families(about: dict):
    """The stored vectors are those of the texts and the families that the tests use."""
    texts = hashlib.sha256(json.dumps(TEXTS).encode()).hexdigest()
    assert texts == about["texts_sha256"], "the texts changed: run scripts/make_family_vectors.py"
    assert list(about["checkpoints_sha256"]) == list(FAMILIES)


@every_family
def test_the_checkpoint_is_the_one_that_transformers_read(opened: Opened, about: dict):
    """Weights, configuration and tokenizer are bit for bit those that the stored vectors were made from."""
    assert opened.family.sha256() == about["checkpoints_sha256"][opened.name]


@every_family
def test_stored_vectors_of_different_texts_differ(opened: Opened):
    """Texts are far from each other in the random models, so that a cosine of 1 proves something.

    This guards stored data: no change of the code can break it, only another golden file.
    """
    between = opened.vectors @ opened.vectors.T
    assert np.median(between[~np.eye(len(between), dtype=bool)]) < 0.9


@every_family
def test_ids_equal_those_that_transformers_computed_with(opened: Opened):
    """Every text, in any script, cut or whole, has the stored ids; control tokens that it names are text."""
    texts = opened.family.texts
    ids = {name: opened.model.token_ids(text) for name, text in texts.items()}
    assert ids == dict(zip(texts, opened.ids, strict=True))


def differing(opened: Opened, texts: Iterable[str]) -> list[str]:
    """The texts whose ids are not those of the installed tokenizers package."""
    reference = opened.family.reference(cut=False)
    return [text for text in texts if opened.model.token_ids(text) != reference.encode(text).ids]


@every_family
def test_ids_equal_the_installed_tokenizers(opened: Opened):
    """Every golden text and query has Hugging Face's ids, whole and line by line."""
    whole = [*GOLDEN.values(), *QUERIES.values(), *TEXTS.values()]
    assert not differing(opened, dict.fromkeys([*whole, *(line for text in whole for line in text.splitlines())]))


@every_family
def test_ids_of_all_locales_and_of_random_texts_equal_the_installed_tokenizers(opened: Opened):
    """Texts of at least 119 locales, and a thousand of random characters, have Hugging Face's ids."""
    of_locales = [text[:400] for text in locale_texts().values() if len(text) > 1000]
    assert len(of_locales) >= 119
    assert not differing(opened, [*of_locales, *random_texts(3, 1000)])


@pytest.mark.slow
@every_family
def test_ids_of_every_code_point_equal_the_installed_tokenizers(opened: Opened):
    """Every code point of Unicode, in several contexts, has Hugging Face's ids."""
    assert not differing(opened, (text for around in CONTEXTS for text in blocks(around)))


@every_family
def test_vectors_equal_transformers(opened: Opened):
    """Every text's vector is that of transformers: cosine >= 0.9999, no dim further than llama.cpp's GELU is off.

    The longest text is over the limit, and is cut as Hugging Face cuts it: the tokens around the text are kept.
    """
    texts = opened.family.texts
    assert opened.model.max_tokens == MAX_TOKENS < max(map(len, opened.ids))
    vectors = opened.model.encode(list(texts.values()))
    cosine_of = dict(zip(texts, cosines(vectors, opened.vectors), strict=True))
    assert not {name: cosine for name, cosine in cosine_of.items() if not cosine >= 0.9999}
    assert np.abs(vectors - opened.vectors).max() <= LARGEST_DIFFERENCE


_FLAGS = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token")
_IDS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")


@pytest.mark.parametrize(
    ("name", "lost", "correction"),
    [
        ("xlm-roberta-mean", _FLAGS, "starts with <s>"),
        ("jina-v3", _FLAGS, "starts with <s>"),
        ("roberta-mean", _FLAGS, "starts with <s>"),
        ("modernbert-cls", _FLAGS, "starts with [CLS]"),
        ("embedding-gemma", _FLAGS, "starts with <bos>"),
        ("nomic-bert", _FLAGS, None),
        ("nomic-bert", (*_IDS, *_FLAGS), "starts with [CLS]"),
        ("nomic-bert", ("tokenizer.ggml.seperator_token_id",), "starts with [CLS]"),
        ("nomic-bert", ("tokenizer.ggml.unknown_token_id",), None),
        ("nomic-bert", ("tokenizer.ggml.normalizer.lowercase",), None),
        ("distilbert", ("tokenizer.ggml.normalizer.lowercase",), "capitals count"),
        ("llama-embed", _FLAGS, None),
        ("e5-mistral", _FLAGS[:1], None),
        ("xlm-roberta-cls", ("tokenizer.ggml.remove_extra_whitespaces",), None),
    ],
)
def test_a_file_that_lost_keys_has_the_same_ids(
    name: str, lost: tuple[str, ...], correction: str | None, tmp_path: Path
):
    """Older files lack keys of the tokenizer. What must follow from the others does, and the spec states it."""
    family = FAMILIES[name]()
    kept = {key: value for key, value in family.metadata.items() if key not in lost}
    assert set(lost) & set(family.metadata)
    path = replace(family, metadata=kept).save_gguf(tmp_path / "lost.gguf")
    reference = family.reference(cut=False)
    with Embedder(path) as model:
        others = [text for text in family.texts.values() if model.token_ids(text) != reference.encode(text).ids]
        assert not others
        assert correction is None or any(correction in sentence for sentence in model.spec.corrections)


def test_a_file_may_declare_that_it_has_no_frame(tmp_path: Path):
    """Where the header declares that no token is put around a text, none is put."""
    family = FAMILIES["roberta-mean"]()
    declared = family.metadata | dict.fromkeys(_FLAGS, False)
    with Embedder(replace(family, metadata=declared).save_gguf(tmp_path / "bare.gguf")) as model:
        assert model.token_ids("é 한 😉") == family.reference(cut=False).encode("é 한 😉", add_special_tokens=False).ids


def test_the_mark_of_words_in_a_text_is_no_mark(tmp_path: Path):
    """A token that is only "▁" in a file continues a word; a text with this letter has Hugging Face's ids."""
    family = FAMILIES["nomic-bert"]()
    vocabulary = dict(family.tokenizer["model"]["vocab"])
    vocabulary["##▁"] = vocabulary.pop("##z")
    tokenizer = family.tokenizer | {"model": family.tokenizer["model"] | {"vocab": vocabulary}}
    tokens = list(family.metadata["tokenizer.ggml.tokens"])
    tokens[vocabulary["##▁"]] = "▁"
    changed = replace(family, tokenizer=tokenizer, metadata=family.metadata | {"tokenizer.ggml.tokens": tokens})
    with Embedder(changed.save_gguf(tmp_path / "mark.gguf")) as model:
        for text in ("a▁b", "▁", "a ▁ b"):
            assert model.token_ids(text) == changed.reference(cut=False).encode(text).ids
