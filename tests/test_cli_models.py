"""The commands `qgguf inspect`, `pull`, `list`, `rm` and `convert`, run as a user runs them."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgguf.model.from_gguf import read_spec
from tests.support.hub_server import COMMIT, Hub, Repo, serve, silent_server
from tests.support.processes import qgguf, qgguf_in_terminal

terminal = pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals here")


@pytest.fixture
def hub(minilm_q8: Path) -> Iterator[Hub]:
    with serve() as running:
        running.repos["me/MiniLM-GGUF"] = Repo({"minilm-Q8_0.gguf": minilm_q8.read_bytes(), "README.md": b"hi"})
        yield running


# inspect


def test_inspect_describes_a_model(minilm_q8: Path, tmp_path: Path):
    """Name, file, weights, dims, tokens, pooling, end token, prompts and corrections, a line each."""
    done = qgguf("inspect", str(minilm_q8), home=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    rows = {line[:14].strip(): line[14:] for line in done.stdout.decode().splitlines()}
    spec = read_spec(minilm_q8)
    assert rows["model"] == spec.name
    assert rows["file"].startswith(f"{minilm_q8} (")
    assert rows["architecture"] == "bert, 6 layers, attention bidirectional"
    assert rows["weights"] == "22.6 million, Q8_0"
    assert rows["dims"] == "384, not trained to be cut shorter"
    assert rows["tokens"] == "512 in a text, 256 by the checkpoint's own limit; vocabulary of 30522"
    assert rows["pooling"] == "mean" and rows["end token"] == "[SEP] (102)" and rows["corrected"] == "nothing"


def test_inspect_shows_prompts_and_dims_of_qwen3(small_qwen3: Path, tmp_path: Path):
    """Prompts of instruction models are shown in full, with escaped line ends."""
    shown = qgguf("inspect", str(small_qwen3), home=tmp_path).stdout.decode()
    assert "attention causal" in shown and "(--dim)" in shown and "pooling       last" in shown
    assert '"Instruct: {instruction}\\nQuery:"' in shown
    assert '"Instruct: Given a web search query, retrieve relevant passages that answer the query\\nQuery:"' in shown


def test_inspect_json_has_every_field(small_qwen3: Path, tmp_path: Path):
    """The JSON object has every field of ModelSpec."""
    answer = json.loads(qgguf("inspect", "--json", str(small_qwen3), home=tmp_path).stdout)
    spec = read_spec(small_qwen3)
    assert answer["path"] == str(small_qwen3)
    assert set(answer) == {"path", *type(spec).__dataclass_fields__}
    assert answer["pooling"] == "last" and answer["prompts"] == dict(spec.prompts)
    assert answer["mrl_dims"] == list(spec.mrl_dims or ())


def test_inspect_downloads_nothing(tmp_path: Path, hub: Hub):
    """A model that is not on this machine is an error, without a request."""
    done = qgguf("inspect", "me/MiniLM-GGUF:Q8_0", home=tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 1 and b"Fetch it: qgguf pull me/MiniLM-GGUF:Q8_0" in done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 16], ids=["empty", "cut", "hostile"])
def test_inspect_of_an_invalid_file_is_one_line(data: bytes, tmp_path: Path):
    """A file that is not a GGUF is one line on stderr."""
    (tmp_path / "x.gguf").write_bytes(data)
    done = qgguf("inspect", "x.gguf", home=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(b"Error: ") and len(done.stderr.splitlines()) == 1


# pull, list, rm


def test_pull_list_embed_rm(tmp_path: Path, hub: Hub, minilm_q8: Path):
    """A model is pulled, listed, used as the default, and removed with its blob."""
    settings = {"HF_ENDPOINT": hub.url}
    pulled = qgguf("pull", "me/MiniLM-GGUF:q8_0", home=tmp_path, **settings)
    path = tmp_path / f"hub/models--me--MiniLM-GGUF/snapshots/{COMMIT}/minilm-Q8_0.gguf"
    size = f"{minilm_q8.stat().st_size / 1e6:.1f} MB"
    assert pulled.stdout.decode() == f"me/MiniLM-GGUF:q8_0 is ready ({size}, checksum verified): {path}\n"
    assert (pulled.returncode, pulled.stderr) == (0, b"")

    name = "me/MiniLM-GGUF/minilm-Q8_0.gguf"
    head, row = qgguf("list", home=tmp_path, **settings).stdout.decode().splitlines()
    assert head.split() == ["NAME", "SIZE", "TYPE", "DIMS"] and row.split() == [name, *size.split(), "Q8_0", "384"]
    listed = json.loads(qgguf("list", "--json", home=tmp_path, **settings).stdout)
    assert listed == [{"name": name, "path": str(path), "size_bytes": minilm_q8.stat().st_size, "source": "hub"}]

    hub.forget()
    assert qgguf("embed", "한", home=tmp_path, **settings).returncode == 0
    assert hub.requests == []

    removed = qgguf("rm", name, home=tmp_path, **settings)
    assert removed.stdout.decode() == f"Deleted {name} ({size}).\n"
    assert not (tmp_path / "hub/models--me--MiniLM-GGUF").exists()
    assert b"No model is here" in qgguf("list", home=tmp_path, **settings).stdout


def test_second_pull_verifies_the_file(tmp_path: Path, hub: Hub):
    """It downloads nothing; a damaged file is deleted, with exit code 1."""
    settings = {"HF_ENDPOINT": hub.url}
    qgguf("pull", "me/MiniLM-GGUF:Q8_0", home=tmp_path, **settings)
    hub.forget()
    assert qgguf("pull", "me/MiniLM-GGUF:Q8_0", home=tmp_path, **settings).returncode == 0
    assert hub.sent_bytes == 0
    path = tmp_path / f"hub/models--me--MiniLM-GGUF/snapshots/{COMMIT}/minilm-Q8_0.gguf"
    with path.open("r+b") as stream:
        stream.write(b"?")
    done = qgguf("pull", "me/MiniLM-GGUF:Q8_0", home=tmp_path, **settings)
    assert done.returncode == 1 and b"is not the published file" in done.stderr and not path.exists()


@terminal
def test_pull_resumes_after_ctrl_c(tmp_path: Path, hub: Hub, minilm_q8: Path):
    """The bar is on the terminal, Ctrl-C is one line, and the second run downloads the rest only."""
    hub.bytes_per_second = 5_000_000
    arguments = ("pull", "me/MiniLM-GGUF:Q8_0")
    code, shown = qgguf_in_terminal(*arguments, home=tmp_path, until=b"B/s", keys=b"\x03", HF_ENDPOINT=hub.url)
    assert code == 130 and b"Fetching me/MiniLM-GGUF:Q8_0" in shown and b"Interrupted." in shown
    first = hub.sent_bytes
    hub.bytes_per_second = None
    code, shown = qgguf_in_terminal(*arguments, home=tmp_path, HF_ENDPOINT=hub.url)
    assert code == 0 and b"is ready" in shown
    # Bytes in socket buffers and in one chunk are sent twice.
    assert 0 < hub.sent_bytes - first < minilm_q8.stat().st_size and hub.ranges[-1].startswith("bytes=")


@pytest.mark.parametrize("command", [["pull"], ["embed", "x", "-m"]])
def test_missing_network_is_one_line(command: list[str], tmp_path: Path):
    """Without a network: exit code 1, what to check, and how to work without the hub."""
    done = qgguf(*command, "qwen3-embedding-0.6b", home=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    shown = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"") and len(shown.splitlines()) == 1
    assert shown.startswith("Error: Qwen/Qwen3-Embedding-0.6B-GGUF") and "-m FILE" in shown


@terminal
def test_ctrl_c_ends_the_wait_for_a_silent_hub(tmp_path: Path):
    """Ctrl-C works at once, before the timeout."""
    with silent_server() as url:
        code, shown = qgguf_in_terminal(
            "-v", "pull", "qwen3-embedding-0.6b", home=tmp_path, until=b"requesting", keys=b"\x03", HF_ENDPOINT=url
        )
    # Without progress there is no bar, not even around the log line.
    assert code == 130 and shown.splitlines()[-1] == b"Interrupted." and b"Fetching" not in shown


def test_rm_of_an_unlisted_file_is_refused(tmp_path: Path):
    """Only models of `list` are deleted."""
    (tmp_path / "keep.txt").write_bytes(b"x")
    done = qgguf("rm", "keep.txt", home=tmp_path)
    assert done.returncode == 1 and b"not among the models here" in done.stderr and (tmp_path / "keep.txt").exists()


def test_rm_of_a_file_in_a_folder_needs_yes(tmp_path: Path):
    """Without a terminal to ask on it is refused; --yes confirms."""
    own = tmp_path / "한 é.gguf"
    own.write_bytes(b"x")
    assert qgguf("rm", own.name, home=tmp_path).returncode == 2 and own.exists()
    assert qgguf("rm", "--yes", own.name, home=tmp_path).returncode == 0 and not own.exists()


@terminal
@pytest.mark.parametrize("answer", ["y", "n"])
def test_rm_asks_on_a_terminal(answer: str, tmp_path: Path):
    """The file is deleted only after a yes."""
    own = tmp_path / "x.gguf"
    own.write_bytes(b"x")
    keys = f"{answer}\n".encode()
    code, shown = qgguf_in_terminal("rm", own.name, home=tmp_path, until=b"[y/N]", keys=keys)
    assert code == 0 and own.exists() == (answer == "n")
    assert (b"Nothing was deleted." in shown) == (answer == "n")


def test_list_shows_invalid_files(tmp_path: Path, minilm_q8: Path):
    """Invalid files are listed, so that they can be removed; wide characters keep the columns aligned."""
    (tmp_path / "한글.gguf").write_bytes(b"broken")
    (tmp_path / "a.gguf").symlink_to(minilm_q8)
    lines = qgguf("list", home=tmp_path).stdout.decode().splitlines()
    size = f"{minilm_q8.stat().st_size / 1e6:.1f} MB"
    assert lines == [
        f"NAME       {'SIZE':>{len(size)}}  TYPE                    DIMS",
        f"a.gguf     {size}  Q8_0                     384",
        f"한글.gguf  {'6 B':>{len(size)}}  not an embedding model",
    ]


# convert


def test_convert_writes_the_same_file_as_the_library(small_qwen3_checkpoint: Path, small_qwen3: Path, tmp_path: Path):
    """`qgguf convert` has the converter's options; the next command that it shows works."""
    done = qgguf("convert", str(small_qwen3_checkpoint), "--quant", "F16", "-o", "é.gguf", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "é.gguf").read_bytes() == small_qwen3.read_bytes()
    size = f"{small_qwen3.stat().st_size / 1e6:.1f} MB"
    assert done.stdout.decode() == f'Wrote é.gguf, {size}. Try it: qgguf embed -m é.gguf "a text"\n'
    assert qgguf("embed", "-m", "é.gguf", "a text", home=tmp_path).returncode == 0


def test_convert_names_its_output(small_qwen3_checkpoint: Path, tmp_path: Path):
    """Without -o the file is NAME-QUANT.gguf; an existing file is replaced with --force only."""
    shutil.copytree(small_qwen3_checkpoint, tmp_path / "My-Model")
    again = ["convert", "My-Model", "--quant", "Q8_0", "--threads", "1", "--token-embedding-type", "Q4_0"]
    assert qgguf(*again, home=tmp_path).returncode == 0
    out = tmp_path / "my-model-Q8_0.gguf"
    first = out.read_bytes()
    refused = qgguf(*again, home=tmp_path)
    assert refused.returncode == 1 and b"--force" in refused.stderr and out.read_bytes() == first
    assert qgguf(*again, "--force", home=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no folder nowhere"),
        (["empty"], "Error: "),
        (["empty", "-o", "no/such/x.gguf"], "Error: "),
        (["nobody/nothing"], "refused (401)"),
    ],
)
def test_convert_error_is_one_line(arguments: list[str], words: str, tmp_path: Path, hub: Hub):
    """Exit code 1, one line, and no file."""
    (tmp_path / "empty").mkdir()
    done = qgguf("convert", *arguments, home=tmp_path, HF_ENDPOINT=hub.url)
    shown = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"") and words in shown
    assert shown.startswith("Error: ") and len(shown.splitlines()) == 1 and "bug" not in shown
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".gguf", ".part")]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--quant", "Q3", "'Q4_K_M'"),
        ("--token-embedding-type", "Q3", "'Q4_K'"),
        ("--pooling", "max", "'mean'"),
        ("--threads", "0", "1<=x<=512"),
        ("--threads", "513", "1<=x<=512"),
    ],
)
def test_convert_wrong_option_value_exits_2(option: str, value: str, words: str, tmp_path: Path):
    """A value that no checkpoint could make right is wrong usage, as with the other commands."""
    done = qgguf("convert", "nowhere", option, value, home=tmp_path)
    assert done.returncode == 2 and words.lower() in done.stderr.decode().lower()


def test_convert_fetches_a_repository(small_qwen3_checkpoint: Path, tmp_path: Path, hub: Hub):
    """owner/name comes from the hub; the GGUF file records its revision."""
    files = [path for path in small_qwen3_checkpoint.rglob("*") if path.is_file()]
    named = {path.relative_to(small_qwen3_checkpoint).as_posix(): path.read_bytes() for path in files}
    hub.repos["me/Small"] = Repo(named)
    done = qgguf("convert", "me/Small", "--quant", "Q8_0", "--revision", "main", home=tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    spec = read_spec(tmp_path / "small-Q8_0.gguf")
    assert (spec.source_repo, spec.source_revision) == ("me/Small", COMMIT)
    assert b"made from     me/Small" in qgguf("inspect", "small-Q8_0.gguf", home=tmp_path).stdout
