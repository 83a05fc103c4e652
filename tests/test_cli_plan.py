"""`qgguf plan` as a user runs it, for a local file and for one on the hub, of which only the header is read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgguf.gguf_format.reader import read_header
from qgguf.hub.catalogue import CATALOGUE
from tests.support.empty_model import make_empty_model
from tests.support.hub_server import Hub, Repo, serve
from tests.support.processes import qgguf

FOUR_B = "Qwen3 Embedding 4B, Q4_K_M, 36 layers"


@pytest.fixture(scope="module")
def model_4b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sparse file of 2.5 GB with the tensor table of the 4B model."""
    return make_empty_model(tmp_path_factory.mktemp("4b") / "한 4b.gguf", "4b")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_empty_model(tmp_path_factory.mktemp("small") / "small.gguf", "0.6b", layers=2, hidden_size=256)


@pytest.fixture
def hub(small: Path) -> Iterator[Hub]:
    with serve() as running:
        running.repos["me/Small-GGUF"] = Repo({"small-Q4_K_M.gguf": small.read_bytes(), "README.md": b"hi"})
        yield running


def test_4b_in_3_gb(model_4b: Path, tmp_path: Path):
    """Shows every part, a bar of the budget, the settings, and the next plans for less and for more memory."""
    done = qgguf("plan", str(model_4b), "--vram", "3GB", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode()
    lines = shown.splitlines()
    assert lines[0] == f"{FOUR_B}, {model_4b}"
    assert "GPU: 2.83 GB of 3.00 GB" in lines
    bars = [line for line in lines if line.startswith("[")]
    assert len(bars) == 2 and {len(line) for line in bars} == {62}
    # 2.17 of 3 GB are layers, and a twentieth is free.
    assert bars[0].count("L") == 43 and bars[0].endswith("...]")
    assert "layers on the GPU   36 of 36" in lines and "longest text        4,096 tokens" in lines
    assert "KV cache            q8_0" in lines and lines[-1].startswith("with 3.1GB: all 36 layers")
    assert lines[-2].startswith("with 2.")


def test_json_holds_settings_and_parts(model_4b: Path, tmp_path: Path):
    """The parts add up to the totals."""
    done = qgguf("plan", str(model_4b), "--vram", "3e9", "--max-tokens", "32768", "--json", home=tmp_path)
    answer = json.loads(done.stdout)
    assert 19 <= answer["gpu_layers"] <= 21 and answer["n_layers"] == 36
    assert (answer["max_tokens"], answer["kv_type"]) == (32768, "q8_0") and answer["micro_batch"] <= 512
    for memory, total in (("GPU", "vram_bytes"), ("CPU", "ram_bytes")):
        assert answer[total] == sum(part["bytes"] for part in answer["parts"].values() if part["memory"] == memory)
    assert answer["vram_bytes"] <= 3_000_000_000 == answer["budget"]["vram_bytes"]
    assert answer["larger"]["gpu_layers"] == 36 and answer["smaller"]["vram_bytes"] < answer["vram_bytes"]
    assert answer["costs"]


def test_without_budget_the_plan_is_for_the_cpu(model_4b: Path, tmp_path: Path):
    """The last line shows what a GPU would need."""
    shown = qgguf("plan", str(model_4b), home=tmp_path).stdout.decode()
    assert "layers on the GPU   0 of 36" in shown and "GPU:" not in shown
    assert shown.splitlines()[-1].startswith("with 2.51GB: all 36 layers on a GPU")


def test_encoder_has_one_kv_type(tmp_path: Path, minilm_q8: Path):
    """The real MiniLM has no KV cache, and a limit of 256 tokens."""
    answer = json.loads(qgguf("plan", str(minilm_q8), "--vram", "1GB", "--json", home=tmp_path).stdout)
    assert (answer["gpu_layers"], answer["max_tokens"], answer["kv_type"]) == (6, 256, "f16")
    assert answer["larger"] is None


def test_estimated_compute_buffer_is_reported(small: Path, tmp_path: Path):
    """One line in plan and inspect, and a field in their JSON, for an architecture whose graph is not modelled."""
    other = tmp_path / "other.gguf"
    other.write_bytes(small.read_bytes().replace(b"qwen3", b"qwen2"))
    for path, is_exact in ((small, True), (other, False)):
        for command in ("plan", "inspect"):
            shown = qgguf(command, str(path), home=tmp_path).stdout.decode()
            assert ("estimated, with a margin of 15 %" in shown) != is_exact
            answer = json.loads(qgguf(command, str(path), "--json", home=tmp_path).stdout)
            assert answer["exact_compute_buffer"] is is_exact


@pytest.mark.parametrize("words", [["--vram", "200MB"], ["--ram", "100MB"], ["--vram", "3GB", "--ram", "10MB"]])
def test_budget_too_small_is_one_line(model_4b: Path, words: list[str], tmp_path: Path):
    """Exit code 1."""
    done = qgguf("plan", str(model_4b), *words, home=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"Error: Nothing fits in ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", [["--vram", "3 gigs"], ["--ram", "much"], ["--vram", "3"], ["--max-tokens", "3"], ["--max-tokens", "all"]]
)
def test_invalid_option_is_wrong_usage(model_4b: Path, words: list[str], tmp_path: Path):
    """Exit code 2, and the error names the option."""
    done = qgguf("plan", str(model_4b), *words, home=tmp_path)
    assert done.returncode == 2 and words[0].encode() in done.stderr and b"Traceback" not in done.stderr


def test_token_limit_above_the_model_is_refused(model_4b: Path, tmp_path: Path):
    """Exit code 1, with both numbers."""
    done = qgguf("plan", str(model_4b), "--max-tokens", "50000", home=tmp_path)
    assert done.returncode == 1 and b"max_tokens=50,000" in done.stderr and b"40,960" in done.stderr


def test_file_without_pooling_is_refused(tmp_path: Path):
    """A text generator is no embedding model."""
    raw = make_empty_model(tmp_path / "x.gguf", "minilm", layers=1, vocab_size=100).read_bytes()
    (tmp_path / "x.gguf").write_bytes(raw.replace(b"bert.pooling_type", b"bert.pooling_tyqe"))
    done = qgguf("plan", "x.gguf", home=tmp_path)
    assert done.returncode == 1 and b"declares no pooling" in done.stderr


# On the hub


def test_model_on_the_hub_is_not_downloaded(tmp_path: Path, hub: Hub, small: Path):
    """The plan equals that of the local file; only the header is sent, once, and nothing is stored."""
    words = ("--vram", "1GB", "--json")
    there = qgguf("plan", "me/Small-GGUF:Q4_K_M", *words, home=tmp_path, HF_ENDPOINT=hub.url)
    assert (there.returncode, there.stderr) == (0, b"")
    here = qgguf("plan", str(small), *words, home=tmp_path)
    assert json.loads(there.stdout) == json.loads(here.stdout) | {"model": "me/Small-GGUF:Q4_K_M"}
    header_bytes = read_header(small).data_offset
    # Read in pieces of doubling size: a first megabyte, and less than twice the header in total.
    assert header_bytes <= hub.sent_bytes <= 2 * header_bytes + (1 << 20) < small.stat().st_size
    asked = [tuple(map(int, words.removeprefix("bytes=").split("-"))) for words in hub.ranges]
    assert all(first == last + 1 for (first, _), (_, last) in zip(asked[1:], asked, strict=False))
    assert not list(tmp_path.rglob("*.gguf")) and not list(tmp_path.rglob("refs"))


def test_catalogue_name_uses_the_pinned_revision(tmp_path: Path, hub: Hub, small: Path):
    """Also where the catalogue does not know the size of the file."""
    published = CATALOGUE["qwen3-embedding-4b"]
    file = published.files["Q4_K_M"]
    assert file.size_bytes is None
    hub.repos[published.repo] = Repo({file.name: small.read_bytes()}, commit=published.revision)
    done = qgguf("plan", "qwen3-embedding-4b", home=tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 0 and b"to download" in done.stdout.splitlines()[0]
    assert hub.requests and set(hub.requests) == {f"GET /{published.repo}/resolve/{published.revision}/{file.name}"}


def test_download_without_ranges_stops_after_the_header(tmp_path: Path, hub: Hub, small: Path):
    """A server that ignores ranges sends the whole file; the connection is closed early."""
    hub.ignores_range = True
    done = qgguf("plan", "me/Small-GGUF:Q4_K_M", home=tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert set(hub.ranges) != {""} and hub.sent_bytes < small.stat().st_size


def test_cached_model_needs_no_request(tmp_path: Path, hub: Hub):
    """After `qgguf pull` the plan reads the cache."""
    assert qgguf("pull", "me/Small-GGUF:Q4_K_M", home=tmp_path, HF_ENDPOINT=hub.url).returncode == 0
    hub.forget()
    done = qgguf("plan", "me/Small-GGUF:Q4_K_M", home=tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 0 and b"to download" not in done.stdout and hub.requests == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("me/Small-GGUF:Q8_0", b"no Q8_0"),
        ("me/Nothing-GGUF:Q8_0", b"does not exist"),
        ("me/Broken-GGUF", b"is not a GGUF file"),
        ("me/Cut-GGUF", b"is cut short"),
    ],
)
def test_wrong_name_or_file_is_one_line(name: str, words: bytes, tmp_path: Path, hub: Hub, small: Path):
    """Exit code 1."""
    hub.repos["me/Broken-GGUF"] = Repo({"x.gguf": b"<html>" * 1000})
    hub.repos["me/Cut-GGUF"] = Repo({"x.gguf": small.read_bytes()[:2000]})
    done = qgguf("plan", name, home=tmp_path, HF_ENDPOINT=hub.url)
    shown = b" ".join(done.stderr.split())
    assert done.returncode == 1 and words in shown and len(done.stderr.splitlines()) == 1


def test_broken_connection_is_one_line(tmp_path: Path, hub: Hub):
    """Exit code 1 where only half of the header arrives."""
    hub.cut_after_bytes = [30_000]
    done = qgguf("plan", "me/Small-GGUF:Q4_K_M", home=tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and b"Traceback" not in done.stderr


def test_offline_sends_no_request(tmp_path: Path, hub: Hub):
    """HF_HUB_OFFLINE applies to headers too."""
    done = qgguf("plan", "me/Small-GGUF:Q4_K_M", home=tmp_path, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and b"HF_HUB_OFFLINE" in done.stderr and hub.requests == []


def test_help_states_that_no_gpu_is_needed(tmp_path: Path):
    """And that figures for a GPU have not been measured."""
    shown = b" ".join(qgguf("plan", "--help", home=tmp_path).stdout.split())
    assert b"No GPU is needed" in shown and b"have not been measured on a GPU yet" in shown
