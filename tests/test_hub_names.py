"""What a name means: paths, the catalogue, repositories."""

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

# Over the size from which the hub keeps a SHA-256.
MODEL = b"GGUF \xec\x95\x88\xeb\x85\x95 \xf0\x9f\x98\x89 " * 200


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        yield running


def resolve(name: str, home: Path, hub: Hub, **settings: str) -> dict[str, str]:
    return ask_hub(f"hub.resolve({name!r})", home, hub.url, **settings)


@pytest.mark.parametrize("name", ["m-q4_k_m.gguf", "한글 é 😉.gguf"])
def test_a_path_is_itself(name: str, tmp_path: Path, hub: Hub):
    """A file that is there is taken as it is, and the hub is not asked."""
    (tmp_path / name).write_bytes(b"x")
    assert resolve(name, tmp_path, hub)["answer"] == name
    assert hub.requests == []


def test_a_folder_is_refused(tmp_path: Path, hub: Hub):
    """A folder is no model; the message says what to do with a checkpoint."""
    (tmp_path / "me").mkdir()
    assert resolve("me", tmp_path, hub) == {
        "error": "ModelNotFoundError",
        "message": "me is a folder. Name a GGUF file in it, or convert it: qgguf convert me",
        "stderr": "",
    }


@pytest.mark.parametrize(
    "name", ["nix", "nix.gguf", "models/nix.gguf", "models/sub/nix.gguf", "C:\\nix.gguf", "", "a/b/c/d"]
)
def test_a_missing_file_is_not_looked_for_on_the_hub(name: str, tmp_path: Path, hub: Hub):
    """A slip in a path is told as such, without a request."""
    (tmp_path / "models").mkdir()
    answer = resolve(name or "no such", tmp_path, hub)
    assert answer["error"] == "ModelNotFoundError"
    assert "qwen3-embedding-0.6b" in answer["message"] and "owner/repo:QUANT" in answer["message"]
    assert hub.requests == []


@pytest.mark.parametrize("quant", ["Q4_K_M", "q4_k_m"])
def test_a_quantisation_is_found_whatever_its_case(quant: str, tmp_path: Path, hub: Hub):
    """owner/repo:QUANT is the file whose name has QUANT in it, and not one that has more."""
    hub.repos["me/m-GGUF"] = Repo({"m-Q4_K_M.gguf": MODEL, "m-Q4_K_S.gguf": MODEL[1:], "README.md": b"hi"})
    path = Path(resolve(f"me/m-GGUF:{quant}", tmp_path, hub)["answer"])
    assert path == tmp_path / f"hub/models--me--m-GGUF/snapshots/{COMMIT}/m-Q4_K_M.gguf"
    assert path.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("quant", "seen"),
    [
        ("Q4_K", "no Q4_K. Name one as me/m-GGUF/FILE: a-Q4_K_M.gguf, b-Q4_K_M.gguf, m-bf16.gguf."),
        ("F16", "no F16. Name one as me/m-GGUF/FILE: a-Q4_K_M.gguf, b-Q4_K_M.gguf, m-bf16.gguf."),
        ("Q4_K_M", "2 files match Q4_K_M. Name one as me/m-GGUF/FILE: a-Q4_K_M.gguf, b-Q4_K_M.gguf."),
    ],
)
def test_none_or_several_are_listed(quant: str, seen: str, tmp_path: Path, hub: Hub):
    """Where a quantisation is not one file, the message lists what is there."""
    files = {"a-Q4_K_M.gguf": MODEL, "b-Q4_K_M.gguf": MODEL, "m-bf16.gguf": MODEL, "README.md": b"hi"}
    hub.repos["me/m-GGUF"] = Repo(files)
    answer = resolve(f"me/m-GGUF:{quant}", tmp_path, hub)
    assert (answer["error"], answer["message"]) == ("ModelNotFoundError", f"me/m-GGUF: {seen}")


def test_a_repository_with_one_gguf_needs_no_quantisation(tmp_path: Path, hub: Hub):
    """owner/repo alone does where only one file can be meant."""
    hub.repos["me/m"] = Repo({"m.gguf": MODEL, "mmproj-m.gguf": MODEL[1:], "README.md": b"hi"})
    assert resolve("me/m", tmp_path, hub)["answer"].endswith("m.gguf")


def test_a_repository_without_gguf_says_so(tmp_path: Path, hub: Hub):
    """A checkpoint's repository is told apart from one of GGUF files."""
    hub.repos["me/m"] = Repo({"model.safetensors": MODEL})
    message = resolve("me/m:Q8_0", tmp_path, hub)["message"]
    assert message == "me/m holds no GGUF file. If it is a checkpoint, convert it: qgguf convert me/m"


@pytest.mark.parametrize("name", ["me/m:Q8_0", "me/m/Q8_0/m-Q8_0-00001-of-00002.gguf", "me/m"])
def test_a_split_model_is_refused(name: str, tmp_path: Path, hub: Hub):
    """One part of a model is no model; nothing is fetched."""
    hub.repos["me/m"] = Repo({f"Q8_0/m-Q8_0-0000{part}-of-00002.gguf": MODEL for part in (1, 2)})
    answer = resolve(name, tmp_path, hub)
    assert "is split over" in answer["message"] and "--merge" in answer["message"]
    assert hub.sent_bytes == 0


def test_a_file_of_a_repository_in_a_folder(tmp_path: Path, hub: Hub):
    """owner/repo/folder/file.gguf is that file."""
    hub.repos["me/m"] = Repo({"gguf/é 한.gguf": MODEL, "x.gguf": MODEL[1:]})
    path = Path(resolve("me/m/gguf/é 한.gguf", tmp_path, hub)["answer"])
    assert path.read_bytes() == MODEL and path.parent.name == "gguf"


def test_a_cached_name_asks_nobody(tmp_path: Path, hub: Hub):
    """Once here, a name means the same file without a request, also after the repository has moved on."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
    first = resolve("me/m:Q8_0", tmp_path, hub)["answer"]
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL[::-1]}, commit="f" * 40)
    hub.forget()
    assert resolve("me/m:Q8_0", tmp_path, hub)["answer"] == first
    assert hub.requests == []


def test_refresh_moves_on(tmp_path: Path, hub: Hub):
    """`refresh` asks for the newest revision, and from then on the name means that one."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
    resolve("me/m:Q8_0", tmp_path, hub)
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL[::-1]}, commit="f" * 40)
    newer = ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url)["answer"]
    assert Path(newer).read_bytes() == MODEL[::-1]
    assert resolve("me/m:Q8_0", tmp_path, hub)["answer"] == newer


def test_download_false_fetches_nothing(tmp_path: Path, hub: Hub):
    """`download=False` says how to fetch, and does not."""
    answer = ask_hub("hub.resolve('qwen3-embedding-4b', download=False)", tmp_path, hub.url)
    assert answer["message"] == "qwen3-embedding-4b is not on this machine. Fetch it: qgguf pull qwen3-embedding-4b"
    assert hub.requests == []


@pytest.mark.parametrize(("name", "model"), CATALOGUE.items())
def test_the_catalogue_is_pinned(name: str, model: object):
    """Every short name has a commit, and a published SHA-256 for its default file."""
    published = CATALOGUE[name]
    assert len(published.revision) == 40 and int(published.revision, 16)
    checksum = published.files[published.default_quant].sha256
    assert checksum is not None and len(checksum) == 64 and int(checksum, 16)


def test_a_short_name_is_one_request_for_the_pinned_commit(tmp_path: Path, hub: Hub):
    """A pinned file needs no listing; bytes that are not the published ones are refused and deleted."""
    model = CATALOGUE["qwen3-embedding-0.6b"]
    file = model.files["Q8_0"]
    hub.repos[model.repo] = Repo({file.name: MODEL}, commit=model.revision)
    hub.lies[file.name] = b""
    answer = ask_hub(
        "hub.resolve('Qwen3-Embedding-0.6B')",
        tmp_path,
        hub.url,
        # The real file's size would have to be sent too.
        before="from qgguf.hub.catalogue import CATALOGUE, PublishedFile\n"
        f"CATALOGUE['qwen3-embedding-0.6b'].files['Q8_0'] = PublishedFile({file.name!r}, None, {file.sha256!r})\n",
    )
    assert answer["error"] == "ChecksumError"
    assert file.sha256 in answer["message"] and hashlib.sha256(b"").hexdigest() in answer["message"]
    assert hub.requests == [f"GET /{model.repo}/resolve/{model.revision}/{file.name}"]
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_file_without_published_checksum_has_the_hubs(tmp_path: Path, hub: Hub):
    """Such a file comes from the pinned commit and is checked against the hub's own SHA-256."""
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


def test_an_unpublished_quantisation_is_refused(tmp_path: Path, hub: Hub):
    """The message names those that are published."""
    message = resolve("qwen3-embedding-0.6b:Q4_K_M", tmp_path, hub)["message"]
    assert message == "qwen3-embedding-0.6b is published as Q8_0, F16; there is no Q4_K_M."


def test_short_names_go_both_ways():
    """Every published file has the name that means it."""
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
def test_a_quantisation_picks_itself_alone(quant: str, pattern: str):
    """Of a file for each type, the one asked for is found, in any of the usual ways to name files."""
    names = {each: pattern.format(each.lower(), each.lower()) for each in QUANTS}
    assert pick_quant(list(names.values()), quant) == [names[quant]]


def test_no_model_names_both_ways_to_get_one(tmp_path: Path, hub: Hub):
    """An empty machine is told of pull and convert."""
    answer = ask_hub("hub.default_model()", tmp_path, hub.url)
    assert "qgguf pull qwen3-embedding-0.6b" in answer["message"] and "qgguf convert CHECKPOINT" in answer["message"]


def test_the_one_model_is_the_default(tmp_path: Path, hub: Hub):
    """In ./models, in the current folder or in the cache: if there is one, it is meant."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "한.gguf").write_bytes(b"x")
    (tmp_path / "models" / "big-00001-of-00002.gguf").write_bytes(b"x")
    assert ask_hub("hub.default_model()", tmp_path, hub.url)["answer"] == os.path.join("models", "한.gguf")


def test_several_models_ask_for_a_choice(tmp_path: Path, hub: Hub):
    """With two, neither is guessed; QGGUF_MODEL decides, and takes any name."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
    resolve("me/m:Q8_0", tmp_path, hub)
    (tmp_path / "a.gguf").write_bytes(b"x")
    message = ask_hub("hub.default_model()", tmp_path, hub.url)["message"]
    assert message == "2 models are here (a.gguf, me/m/m-Q8_0.gguf). Choose one with -m NAME or QGGUF_MODEL=NAME."
    assert ask_hub("hub.default_model()", tmp_path, hub.url, QGGUF_MODEL="a.gguf")["answer"] == "a.gguf"
    chosen = ask_hub("hub.default_model()", tmp_path, hub.url, QGGUF_MODEL="me/m:q8_0")["answer"]
    assert Path(chosen).read_bytes() == MODEL
