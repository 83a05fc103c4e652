"""Resolving names: paths, the catalogue, repositories."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.hub.catalogue import CATALOGUE, short_name
from qgguf.hub.resolve import pick_quant
from tests.support.hub_server import COMMIT, Hub, Repo, serve
from tests.support.processes import ask_hub

# Large enough to have a SHA-256 on the hub.
MODEL = b"GGUF \xec\x95\x88\xeb\x85\x95 \xf0\x9f\x98\x89 " * 200


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


def resolve(name: str, home: Path, hub: Hub, **settings: str) -> dict[str, str]:
    return ask_hub(f"hub.resolve({name!r})", home, hub.url, **settings)


@pytest.mark.parametrize("name", ["m-q4_k_m.gguf", "한글 é 😉.gguf"])
def test_existing_file_resolves_to_itself(name: str, tmp_path: Path, hub: Hub):
    """A file that exists is used without a request to the hub."""
    (tmp_path / name).write_bytes(b"x")
    assert resolve(name, tmp_path, hub)["answer"] == name
    assert hub.requests == []


def test_folder_is_refused(tmp_path: Path, hub: Hub):
    """A folder is not a model; the message shows how to convert a checkpoint."""
    (tmp_path / "me").mkdir()
    assert resolve("me", tmp_path, hub) == {
        "error": "ModelNotFoundError",
        "message": "me is a folder. Name a GGUF file in it, or convert it: qgguf convert me",
        "stderr": "",
    }


@pytest.mark.parametrize(
    "name", ["nix", "nix.gguf", "models/nix.gguf", "models/sub/nix.gguf", "C:\\nix.gguf", "", "a/b/c/d"]
)
def test_mistyped_path_makes_no_request(name: str, tmp_path: Path, hub: Hub):
    """A mistyped path is reported as such, without a request to the hub."""
    (tmp_path / "models").mkdir()
    answer = resolve(name or "no such", tmp_path, hub)
    assert answer["error"] == "ModelNotFoundError"
    assert "qwen3-embedding-0.6b" in answer["message"] and "owner/repo:QUANT" in answer["message"]
    assert hub.requests == []


@pytest.mark.parametrize("quant", ["Q4_K_M", "q4_k_m"])
def test_quantisation_ignores_case(quant: str, tmp_path: Path, hub: Hub):
    """owner/repo:QUANT is the file with exactly that quantisation in its name, in any case."""
    hub.repos["me/m-GGUF"] = Repo({"m-Q4_K_M.gguf": MODEL, "m-Q4_K_S.gguf": MODEL[1:], "README.md": b"hi"})
    path = Path(resolve(f"me/m-GGUF:{quant}", tmp_path, hub)["answer"])
    assert path == tmp_path / f"hub/models--me--m-GGUF/snapshots/{COMMIT}/m-Q4_K_M.gguf"
    assert path.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("quant", "problem"),
    [
        ("Q4_K", "no Q4_K. Name one as me/m-GGUF/FILE: a-Q4_K_M.gguf, b-Q4_K_M.gguf, m-bf16.gguf."),
        ("F16", "no F16. Name one as me/m-GGUF/FILE: a-Q4_K_M.gguf, b-Q4_K_M.gguf, m-bf16.gguf."),
        ("Q4_K_M", "2 files match Q4_K_M. Name one as me/m-GGUF/FILE: a-Q4_K_M.gguf, b-Q4_K_M.gguf."),
    ],
)
def test_no_match_and_several_matches_list_the_files(quant: str, problem: str, tmp_path: Path, hub: Hub):
    """If a quantisation does not name one file, the message lists the choices."""
    files = {"a-Q4_K_M.gguf": MODEL, "b-Q4_K_M.gguf": MODEL, "m-bf16.gguf": MODEL, "README.md": b"hi"}
    hub.repos["me/m-GGUF"] = Repo(files)
    answer = resolve(f"me/m-GGUF:{quant}", tmp_path, hub)
    assert (answer["error"], answer["message"]) == ("ModelNotFoundError", f"me/m-GGUF: {problem}")


def test_repository_with_one_gguf_needs_no_quantisation(tmp_path: Path, hub: Hub):
    """owner/repo alone is enough for a repository with one model."""
    hub.repos["me/m"] = Repo({"m.gguf": MODEL, "mmproj-m.gguf": MODEL[1:], "README.md": b"hi"})
    assert resolve("me/m", tmp_path, hub)["answer"].endswith("m.gguf")


def test_repository_without_gguf_is_refused(tmp_path: Path, hub: Hub):
    """The message for a checkpoint's repository shows how to convert it."""
    hub.repos["me/m"] = Repo({"model.safetensors": MODEL})
    message = resolve("me/m:Q8_0", tmp_path, hub)["message"]
    assert message == "me/m has no GGUF file. If it is a checkpoint, convert it: qgguf convert me/m"


@pytest.mark.parametrize("name", ["me/m:Q8_0", "me/m/Q8_0/m-Q8_0-00001-of-00002.gguf", "me/m"])
def test_split_model_is_refused(name: str, tmp_path: Path, hub: Hub):
    """Parts of a split model are refused before anything is downloaded."""
    hub.repos["me/m"] = Repo({f"Q8_0/m-Q8_0-0000{part}-of-00002.gguf": MODEL for part in (1, 2)})
    answer = resolve(name, tmp_path, hub)
    assert "is split over" in answer["message"] and "--merge" in answer["message"]
    assert hub.sent_bytes == 0


def test_file_in_a_folder_of_a_repository(tmp_path: Path, hub: Hub):
    """owner/repo/folder/file.gguf names that file."""
    hub.repos["me/m"] = Repo({"gguf/é 한.gguf": MODEL, "x.gguf": MODEL[1:]})
    path = Path(resolve("me/m/gguf/é 한.gguf", tmp_path, hub)["answer"])
    assert path.read_bytes() == MODEL and path.parent.name == "gguf"


def test_cached_model_needs_no_request(tmp_path: Path, hub: Hub):
    """A cached name keeps its file without a request, also after the repository has changed."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
    first = resolve("me/m:Q8_0", tmp_path, hub)["answer"]
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL[::-1]}, commit="f" * 40)
    hub.forget()
    assert resolve("me/m:Q8_0", tmp_path, hub)["answer"] == first
    assert hub.requests == []


def test_refresh_takes_the_newest_revision(tmp_path: Path, hub: Hub):
    """After `refresh` the name means the newest revision."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
    resolve("me/m:Q8_0", tmp_path, hub)
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL[::-1]}, commit="f" * 40)
    newer = ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url)["answer"]
    assert Path(newer).read_bytes() == MODEL[::-1]
    assert resolve("me/m:Q8_0", tmp_path, hub)["answer"] == newer


def test_download_false_makes_no_request(tmp_path: Path, hub: Hub):
    """With `download=False` a missing model is an error that shows how to fetch it."""
    answer = ask_hub("hub.resolve('qwen3-embedding-4b', download=False)", tmp_path, hub.url)
    assert answer["message"] == "qwen3-embedding-4b is not on this machine. Fetch it: qgguf pull qwen3-embedding-4b"
    assert hub.requests == []


@pytest.mark.parametrize(("name", "model"), CATALOGUE.items())
def test_catalogue_is_pinned(name: str, model: object):
    """Every short name has a commit, and its default file a published SHA-256."""
    published = CATALOGUE[name]
    assert len(published.revision) == 40 and int(published.revision, 16)
    checksum = published.files[published.default_quant].sha256
    assert checksum is not None and len(checksum) == 64 and int(checksum, 16)


def test_short_name_takes_one_request(tmp_path: Path, hub: Hub):
    """A pinned file needs no file list; bytes with another checksum are refused and deleted."""
    model = CATALOGUE["qwen3-embedding-0.6b"]
    file = model.files["Q8_0"]
    hub.repos[model.repo] = Repo({file.name: MODEL}, commit=model.revision)
    hub.wrong_content[file.name] = b""
    answer = ask_hub(
        "hub.resolve('Qwen3-Embedding-0.6B')",
        tmp_path,
        hub.url,
        # Without a size, or the server would have to send that many bytes.
        before="from qgguf.hub.catalogue import CATALOGUE, PublishedFile\n"
        f"CATALOGUE['qwen3-embedding-0.6b'].files['Q8_0'] = PublishedFile({file.name!r}, None, {file.sha256!r})\n",
    )
    assert answer["error"] == "ChecksumError"
    assert file.sha256 in answer["message"] and hashlib.sha256(b"").hexdigest() in answer["message"]
    assert hub.requests == [f"GET /{model.repo}/resolve/{model.revision}/{file.name}"]
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_checksum_of_the_hub_is_used_if_none_is_published(tmp_path: Path, hub: Hub):
    """Such a file comes from the pinned commit and is verified against the hub's own SHA-256."""
    model = CATALOGUE["qwen3-embedding-4b"]
    name = model.files["Q8_0"].name
    hub.repos[model.repo] = Repo({name: MODEL}, commit=model.revision)
    assert Path(resolve("qwen3-embedding-4b:q8_0", tmp_path, hub)["answer"]).read_bytes() == MODEL
    assert hub.requests[0] == f"GET /api/models/{model.repo}/revision/{model.revision}"
    listed = ask_hub("[model.name for model in hub.list_models()]", tmp_path, hub.url)["answer"]
    assert listed == ["qwen3-embedding-4b:Q8_0"]
    removed = ask_hub("[hub.remove('Qwen3-Embedding-4B:Q8_0').name, hub.list_models()]", tmp_path, hub.url)
    assert removed["message"].startswith("Qwen3-Embedding-4B:Q8_0 is not among the models here")
    assert ask_hub("[hub.remove('qwen3-embedding-4b:Q8_0').name, hub.list_models()]", tmp_path, hub.url)["answer"] == [
        "qwen3-embedding-4b:Q8_0",
        [],
    ]


def test_unpublished_quantisation_is_refused(tmp_path: Path, hub: Hub):
    """The message lists the published quantisations."""
    message = resolve("qwen3-embedding-0.6b:Q4_K_M", tmp_path, hub)["message"]
    assert message == "qwen3-embedding-0.6b is published as Q8_0, F16; there is no Q4_K_M."


def test_short_name_is_the_inverse_of_the_catalogue():
    """Every published file has the name that leads to it."""
    for name, model in CATALOGUE.items():
        for quant, file in model.files.items():
            expected = name if quant == model.default_quant else f"{name}:{quant}"
            assert short_name(model.repo, model.revision, file.name) == expected
    assert short_name("Qwen/Qwen3-Embedding-4B-GGUF", "main", "Qwen3-Embedding-4B-Q8_0.gguf") is None


QUANTS = ["Q8_0", "Q4_0", "Q4_K", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "IQ4_XS", "IQ4_NL", "F16", "BF16", "F32"]


@given(
    st.sampled_from(QUANTS),
    st.sampled_from(["m-{}.gguf", "m.{}.gguf", "M_{}.GGUF", "{}/m-{}.gguf", "ggml-model-{}.gguf"]),
)
def test_quantisation_picks_one_file(quant: str, pattern: str):
    """Among files of all types the right one is picked, for the usual patterns of file names."""
    names = {each: pattern.format(each.lower(), each.lower()) for each in QUANTS}
    assert pick_quant(list(names.values()), quant) == [names[quant]]


def test_missing_model_is_refused_with_both_ways_to_get_one(tmp_path: Path, hub: Hub):
    """Without any model the message names `pull` and `convert`."""
    answer = ask_hub("hub.default_model()", tmp_path, hub.url)
    assert "qgguf pull qwen3-embedding-0.6b" in answer["message"] and "qgguf convert CHECKPOINT" in answer["message"]


def test_only_model_is_the_default(tmp_path: Path, hub: Hub):
    """The only model in ./models, the current folder and the cache is the default."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "한.gguf").write_bytes(b"x")
    (tmp_path / "models" / "big-00001-of-00002.gguf").write_bytes(b"x")
    assert ask_hub("hub.default_model()", tmp_path, hub.url)["answer"] == os.path.join("models", "한.gguf")


def test_several_models_have_no_default(tmp_path: Path, hub: Hub):
    """With two models there is no default; QGGUF_MODEL chooses one by any of its names."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
    resolve("me/m:Q8_0", tmp_path, hub)
    (tmp_path / "a.gguf").write_bytes(b"x")
    message = ask_hub("hub.default_model()", tmp_path, hub.url)["message"]
    assert message == "2 models are here (a.gguf, me/m/m-Q8_0.gguf). Choose one with -m NAME or QGGUF_MODEL=NAME."
    assert ask_hub("hub.default_model()", tmp_path, hub.url, QGGUF_MODEL="a.gguf")["answer"] == "a.gguf"
    chosen = ask_hub("hub.default_model()", tmp_path, hub.url, QGGUF_MODEL="me/m:q8_0")["answer"]
    assert Path(chosen).read_bytes() == MODEL
