"""`qgguf embed` and `similarity` as a user runs them: a process, its bytes, its exit code."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.cli.vector_output import write_vectors
from qgguf.embedder import Embeddings
from tests.support.processes import environment, qgguf, qgguf_in_terminal, run_code

TEXTS = ["how tall is Everest?", "한국어 é 😉", ""]
FORMATS = ["json", "jsonl", "npy", "csv", "base64"]
terminal = pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals here")


@pytest.fixture(scope="module")
def expected(minilm_q8: Path) -> Embeddings:
    """What the library gives for TEXTS."""
    with Embedder(minilm_q8) as model:
        return model.embed(TEXTS)


def parsed(form: str, data: bytes) -> np.ndarray:
    """The vectors in an output, read as any other program would."""
    if form == "json":
        return np.array(json.loads(data)["embeddings"], np.float32)
    if form == "jsonl":
        return np.array([json.loads(line)["embedding"] for line in data.splitlines()], np.float32)
    if form == "npy":
        vectors: np.ndarray = np.load(io.BytesIO(data))
        return vectors
    if form == "csv":
        return np.array([line.split(b",") for line in data.splitlines()], np.float32)
    return np.array([np.frombuffer(base64.b64decode(line), "<f4") for line in data.splitlines()])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", ["arguments", "file", "stdin"])
def test_every_source_gives_every_format(source: str, form: str, minilm_q8: Path, expected: Embeddings, tmp_path: Path):
    """Texts from anywhere, in any format, are the library's vectors to the last bit; stderr stays empty."""
    lines = "\n".join(TEXTS).encode() + b"\n"
    (tmp_path / "é 한.txt").write_bytes(lines)
    given = {"arguments": TEXTS, "file": ["-i", "é 한.txt"], "stdin": ["-"]}[source]
    stdin = lines if source == "stdin" else b""
    done = qgguf("embed", "-m", str(minilm_q8), "-f", form, *given, home=tmp_path, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b"")
    assert parsed(form, done.stdout).tobytes() == expected.vectors.tobytes()
    if form in ("json", "jsonl"):
        whole = [json.loads(line) for line in ([done.stdout] if form == "json" else done.stdout.splitlines())]
        n_tokens, truncated = expected.n_tokens.tolist(), expected.truncated.tolist()
        if form == "json":
            assert {key: value for key, value in whole[0].items() if key != "embeddings"} == {
                "model": minilm_q8.stem,
                "dims": 384,
                "precision": "float32",
                "n_tokens": n_tokens,
                "truncated": truncated,
            }
        else:
            assert [(row["index"], row["n_tokens"], row["truncated"]) for row in whole] == list(
                zip(range(3), n_tokens, truncated, strict=True)
            )


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_has_what_stdout_has(form: str, minilm_q8: Path, expected: Embeddings, tmp_path: Path):
    """-o writes the same bytes, nothing on stdout, and takes the format from the name."""
    out = tmp_path / f"é.{form}"
    done = qgguf("embed", "-m", str(minilm_q8), "-o", str(out), *TEXTS, home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    pieces: list[bytes] = []
    write_vectors(form, pieces.append, expected, minilm_q8.stem, "float32")
    assert out.read_bytes() == b"".join(pieces)
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]


@pytest.mark.parametrize(
    ("precision", "dims", "kind", "form"),
    [("int8", 384, "i1", "npy"), ("binary", 48, "i1", "json"), ("ubinary", 48, "u1", "npy")],
)
def test_precisions(precision: str, dims: int, kind: str, form: str, minilm_q8: Path, tmp_path: Path):
    """Small precisions are whole numbers in text and bytes in npy."""
    with Embedder(minilm_q8) as model:
        codes = model.encode(TEXTS, precision=precision)
    assert codes.dtype == kind and codes.shape == (3, dims)
    arguments = ["embed", "-m", str(minilm_q8), "--precision", precision, "-f", form, *TEXTS]
    answer = qgguf(*arguments, home=tmp_path).stdout
    if form == "npy":
        loaded = np.load(io.BytesIO(answer))
        assert loaded.dtype == kind and (loaded == codes).all()
    else:
        whole = json.loads(answer)
        assert (whole["embeddings"], whole["precision"], whole["dims"]) == (codes.tolist(), precision, dims)


def test_prompts_and_instructions_reach_the_model(small_qwen3: Path, tmp_path: Path):
    """--prompt-name, --instruction and --dim do what the library's arguments do."""
    with Embedder(small_qwen3) as model:
        wanted: list[tuple[list[str], np.ndarray]] = [
            (["--prompt-name", "query"], model.encode(TEXTS, prompt_name="query")),
            (["--instruction", "Finde é"], model.encode(TEXTS, instruction="Finde é")),
            (["--dim", "32"], model.encode(TEXTS, truncate_dim=32)),
        ]
    assert not np.array_equal(wanted[0][1], wanted[1][1])
    for options, vectors in wanted:
        done = qgguf("embed", "-m", str(small_qwen3), "-f", "npy", *options, *TEXTS, home=tmp_path)
        assert np.array_equal(np.load(io.BytesIO(done.stdout)), vectors), done.stderr


@pytest.mark.parametrize(
    ("option", "value", "argument"),
    [("--pooling", "mean", "pooling"), ("--attention", "bidirectional", "attention"), ("--end-token", "", "end_token"),
     ("--end-token", "<|im_end|>", "end_token")],
)  # fmt: skip
def test_choices_over_the_files_own_reach_the_model(
    option: str, value: str, argument: str, small_qwen3: Path, tmp_path: Path
):
    """--pooling, --attention and --end-token give the vectors of the library's arguments, in embed and similarity."""
    given: dict[str, Any] = {argument: value}
    texts = TEXTS[:2]  # the empty one has no token without an end token
    with Embedder(small_qwen3) as model:
        usual = model.encode(texts)
    with Embedder(small_qwen3, **given) as model:
        vectors = model.encode(texts)
        scores = model.similarity(vectors, vectors)
    assert not np.allclose(usual, vectors, atol=1e-3)
    done = qgguf("embed", "-m", str(small_qwen3), "-f", "npy", option, value, *texts, home=tmp_path)
    assert np.array_equal(np.load(io.BytesIO(done.stdout)), vectors), done.stderr
    table = qgguf("similarity", "-m", str(small_qwen3), option, value, *texts, home=tmp_path)
    shown = [float(number) for number in re.findall(r"-?\d\.\d{3}", table.stdout.decode())]
    assert np.allclose(shown, scores.reshape(-1), atol=6e-4), table.stderr


def test_cut_texts_are_reported(minilm_q8: Path, tmp_path: Path):
    """A line on stderr counts them and the output marks them; --truncate error writes nothing."""
    arguments = ["embed", "-m", str(minilm_q8), "--max-tokens", "8", "-f", "jsonl", "short", "word " * 50]
    done = qgguf(*arguments, home=tmp_path)
    assert done.returncode == 0
    assert [json.loads(line)["truncated"] for line in done.stdout.splitlines()] == [False, True]
    assert done.stderr.decode().startswith("Warning: 1 of 2 texts are longer than 8 tokens")
    assert len(done.stderr.splitlines()) == 1
    refused = qgguf(*arguments, "--truncate", "error", "-o", "x.jsonl", home=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert refused.stderr.decode().startswith("Error: 1 of 2 texts are longer than 8 tokens")
    assert list(tmp_path.iterdir()) == []


def test_model_comes_from_the_environment(minilm_q8: Path, tmp_path: Path):
    """Without -m: $QGGUF_MODEL, else the one model in ./models."""
    settings = {"QGGUF_MODEL": str(minilm_q8)}
    first = qgguf("embed", "x", home=tmp_path, **settings)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / minilm_q8.name).symlink_to(minilm_q8)
    second = qgguf("embed", "x", home=tmp_path)
    assert first.returncode == second.returncode == 0 and first.stdout == second.stdout != b""


@pytest.mark.parametrize("stdin", [b"", b"\xef\xbb\xbf"])
def test_empty_input_gives_no_vectors(stdin: bytes, minilm_q8: Path, tmp_path: Path):
    """An empty input gives an empty array of the right width."""
    done = qgguf("embed", "-m", str(minilm_q8), "-f", "npy", home=tmp_path, stdin=stdin)
    assert done.returncode == 0 and np.load(io.BytesIO(done.stdout)).shape == (0, 384)


@pytest.mark.parametrize(
    "settings",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "cp1252"}],
    ids=["C", "ascii", "cp1252"],
)
def test_texts_are_utf8_whatever_the_locale(
    settings: dict[str, str], minilm_q8: Path, expected: Embeddings, tmp_path: Path
):
    """Lines in and names out are UTF-8 on any machine."""
    (tmp_path / "한 é.gguf").symlink_to(minilm_q8)
    (tmp_path / "x.txt").write_bytes("\r\n".join(TEXTS).encode() + b"\r\n")
    done = qgguf("embed", "-i", "x.txt", home=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.decode("utf-8"))
    assert answer["model"] == "한 é"
    assert np.array(answer["embeddings"], np.float32).tobytes() == expected.vectors.tobytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "x", "-i", "there.txt"], "not from both"),
        (["embed", "x", "-"], "stands alone"),
        (["embed", "-i", "no-such.txt"], "'no-such.txt' does not exist"),
        (["embed", "-f", "xml", "x"], "'xml' is not one of"),
        (["embed", "--dim", "0", "x"], "0 is not in the range"),
        (["embed", "--threads", "many", "x"], "'many' is not a valid integer"),
        (["embed", "--prompt-name", "query", "--instruction", "y", "x"], "exclude each other"),
        (["embed", "--pooling", "rank", "x"], "'rank' is not one of 'mean', 'cls', 'last'"),
        (["similarity", "--attention", "both", "x", "é"], "'both' is not one of 'causal', 'bidirectional'"),
        (["embed", "--nonsense"], "No such option"),
        (["similarity", "alone"], "cannot be compared"),
        (["similarity"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["pull"], "Missing argument"),
        (["pull", "there.txt"], "is a file on this machine"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], words: str, tmp_path: Path):
    """The message names the problem and where to find help."""
    (tmp_path / "there.txt").write_bytes(b"x")
    done = qgguf(*arguments, home=tmp_path)
    shown = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b"") and words in shown and "--help" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "no-such.gguf", "x"], "There is no file no-such.gguf"),
        (["-m", "there.txt", "x"], "there.txt is not a GGUF file"),
        (["x"], "No model is here. Fetch one: qgguf pull"),
        (["-m", "MODEL", "--prompt-name", "nonsense", "x"], "No prompt named 'nonsense'"),
        (["-m", "MODEL", "--instruction", "y", "x"], "takes no instructions"),
        (["-m", "MODEL", "--dim", "385", "x"], "1 to 384"),
        (["-m", "MODEL", "--max-tokens", "100000", "x"], "trained on 512 positions"),
        (["-m", "MODEL", "--end-token", "<é>", "x"], "end_token='<é>' is no token of this model"),
        (["-m", "MODEL", "-i", "latin1.txt"], "latin1.txt, line 2: byte 4 (0xe9) is not UTF-8"),
        (["-m", "MODEL", "x", "-o", "no-such/x.json"], "there is no folder"),
        (["-m", "MODEL", "x", "-o", "file/x.json"], "there is no folder"),
    ],
)
def test_errors_exit_1_with_one_line(arguments: list[str], words: str, minilm_q8: Path, tmp_path: Path):
    """`Error: ...` on stderr, nothing on stdout, nothing written, never a traceback."""
    for name, data in {"there.txt": b"x", "latin1.txt": b"ok\ncaf\xe9\n", "file": b""}.items():
        (tmp_path / name).write_bytes(data)
    before = sorted(tmp_path.iterdir())
    arguments = [str(minilm_q8) if word == "MODEL" else word for word in arguments]
    done = qgguf("embed", *arguments, home=tmp_path)
    shown = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"") and words in shown
    assert shown.startswith("Error: ") and len(shown.splitlines()) == 1 and "bug" not in shown
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(minilm_q8: Path, tmp_path: Path):
    """A failed write to a file or to stdout is one line and no traceback."""
    to_file = qgguf("embed", "-m", str(minilm_q8), "x", "-o", "/dev/full", home=tmp_path)
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "qgguf", "embed", "-m", str(minilm_q8), "x"]
        to_stdout = subprocess.run(
            command, env=environment(tmp_path), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE
        )
    for done in (to_file, to_stdout):
        assert done.returncode == 1 and b"No space left" in done.stderr and b"Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert Path("/dev/full").is_char_device()


def test_a_device_is_written_to_and_not_replaced(minilm_q8: Path, tmp_path: Path):
    """Output to /dev/null is discarded; /dev/null stays a device."""
    assert qgguf("embed", "-m", str(minilm_q8), "x", "-o", os.devnull, home=tmp_path).returncode == 0
    assert os.name == "nt" or Path(os.devnull).is_char_device()


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
def test_a_closed_pipe_is_quiet(minilm_q8: Path, tmp_path: Path):
    """`| head` ends the command without a message."""
    command = f"{sys.executable} -m qgguf embed -m {minilm_q8} -f csv - | head -c 5"
    lines = "\n".join(f"line {number}" for number in range(300)).encode()
    done = subprocess.run(
        command, shell=True, env=environment(tmp_path), cwd=tmp_path, input=lines, capture_output=True
    )
    assert len(done.stdout) == 5 and done.stderr == b""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process there")
def test_an_interrupt_is_one_line_and_leaves_no_file(minilm_q8: Path, tmp_path: Path):
    """Ctrl-C gives exit code 130 and "Interrupted.", and leaves neither OUT nor OUT.part."""
    lines = [f"{number} " + "many words " * 100 for number in range(3000)]
    (tmp_path / "x.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "qgguf", "embed", "-m", str(minilm_q8), "-i", "x.txt", "-o", "x.npy"]
    process = subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not (tmp_path / "x.npy.part").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert (process.returncode, shown.strip()) == (130, b"Interrupted.")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process there")
def test_interrupt_inside_llama_cpp_is_not_lost(qwen3_f16: Path, tmp_path: Path):
    """While a decoder computes, llama.cpp calls back into Python often; Ctrl-C is not lost there."""
    code = (
        "import os, signal, sys, threading, time\nfrom qgguf import Embedder\n"
        f"model = Embedder({str(qwen3_f16)!r}, max_tokens=8192)\n"
        "text = 'many é 한 😉 words ' * 1500\nmodel.encode('x')\n"
        "for wait in (0.3, 0.35, 0.4, 0.45):\n"
        "    threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    started = time.monotonic()\n"
        "    try: model.encode(text)\n"
        "    except KeyboardInterrupt: print('heard', time.monotonic() - started < wait + 1)\n"
        "    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "print(model.encode('x').shape)\n"
    )
    done = run_code(code, home=tmp_path)
    assert (done.stdout, done.stderr) == ("heard True\n" * 4 + "(256,)\n", "")


@pytest.mark.skipif(os.name == "nt", reason="no SIGUSR1 there")
def test_signal_handler_that_does_not_raise_stops_nothing(qwen3_f16: Path, tmp_path: Path):
    """The program's handler runs, and the vectors are those of a call without signals."""
    code = (
        "import os, signal, threading, time\nimport numpy as np\nfrom qgguf import Embedder\n"
        f"model = Embedder({str(qwen3_f16)!r}, max_tokens=8192)\n"
        "text, came = 'many é 한 😉 words ' * 900, []\nsignal.signal(signal.SIGUSR1, lambda *_: came.append(1))\n"
        "expected = model.encode(text)\n"
        "for number in range(1, 40):\n"
        "    threading.Timer(number / 40, os.kill, (os.getpid(), signal.SIGUSR1)).start()\n"
        "print(np.array_equal(model.encode(text), expected), len(came) > 3)\n"
        "time.sleep(1.2)\n"
    )
    done = run_code(code, home=tmp_path)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_logs_are_shown_when_asked_for(minilm_q8: Path, tmp_path: Path):
    """Nothing by default; llama.cpp's own lines with -vv, before or after the command."""
    for arguments in (["-vv", "embed"], ["embed", "-vv"]):
        done = qgguf(*arguments, "-m", str(minilm_q8), "x", home=tmp_path)
        assert done.returncode == 0 and b"bert" in done.stderr.lower() and len(done.stderr.splitlines()) > 10
    some = qgguf("embed", "-v", "-m", str(minilm_q8), "x", home=tmp_path).stderr.splitlines()
    assert len(some) < 5 and not any(b"llama_" in line for line in some)


# On a terminal


@terminal
def test_npy_to_a_terminal_is_refused(minilm_q8: Path, tmp_path: Path):
    """Binary output would garble the terminal; the message names the way out."""
    code, shown = qgguf_in_terminal("embed", "-m", str(minilm_q8), "-f", "npy", "x", home=tmp_path)
    assert code == 2 and b"stdout is a terminal. Add -o FILE" in shown and b"NUMPY" not in shown


@terminal
def test_no_texts_on_a_terminal_is_wrong_usage(minilm_q8: Path, tmp_path: Path):
    """It does not wait for lines that the user would have to type."""
    code, shown = qgguf_in_terminal("embed", "-m", str(minilm_q8), home=tmp_path)
    assert code == 2 and b"No texts. Give them as arguments, with -i FILE" in shown


@terminal
def test_short_work_shows_no_bar(minilm_q8: Path, tmp_path: Path):
    """A bar that disappears at once is not useful."""
    code, shown = qgguf_in_terminal("embed", "-m", str(minilm_q8), "-o", "x.npy", "x", home=tmp_path)
    assert (code, shown) == (0, b"")


@terminal
def test_long_work_shows_a_bar_and_ctrl_c_ends_it(minilm_q8: Path, tmp_path: Path):
    """The bar comes after two seconds, on the terminal; the key Ctrl-C ends the program with one line."""
    lines = [f"{number} " + "many words " * 100 for number in range(5000)]
    (tmp_path / "x.txt").write_text("\n".join(lines))
    code, shown = qgguf_in_terminal(
        "embed", "-m", str(minilm_q8), "-i", "x.txt", "-o", "x.npy", home=tmp_path, until=b"tok/s", keys=b"\x03"
    )
    assert code == 130 and b"Interrupted." in shown and b"Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("what", ["texts", "model"])
@pytest.mark.parametrize("by", ["name", "symbolic link", "hard link"])
def test_output_over_an_input_is_refused(what: str, by: str, minilm_q8: Path, tmp_path: Path):
    """The file that the command reads stays as it was, also where the output is another name of it."""
    texts, model = tmp_path / "x.txt", tmp_path / "é.gguf"
    texts.write_text("한 é 😉\n", "utf-8")
    shutil.copy(minilm_q8, model)
    read = texts if what == "texts" else model
    before, out = read.read_bytes(), tmp_path / "out.jsonl"
    if by == "name":
        out = read
    elif by == "symbolic link":
        out.symlink_to(read)
    else:
        os.link(read, out)
    done = qgguf("embed", "-m", str(model), "-i", str(texts), "-f", "jsonl", "-o", str(out), home=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"Error: Cannot write {out}: it is the ".encode())
    assert len(done.stderr.splitlines()) == 1 and read.read_bytes() == before


# similarity


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_similarity_is_a_table(encoding: str, minilm_q8: Path, tmp_path: Path):
    """It has cosines with three decimals, aligned columns for any letters, and is UTF-8 on any console."""
    texts = ["a cat sleeps", "고양이가 잔다 😉", "stocks fell"]
    done = qgguf("similarity", "-m", str(minilm_q8), *texts, home=tmp_path, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    with Embedder(minilm_q8) as model:
        vectors = model.encode(texts)
        scores = model.similarity(vectors, vectors)
    head, *rows = done.stdout.decode().splitlines()
    assert head.split() == ["1", "2", "3"]
    for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
        assert row.startswith(f"{number + 1}  {text}")
        assert re.findall(r"-?\d\.\d{3}", row) == [f"{score:.3f}" for score in scores[number]]


# Help


COMMANDS: dict[str, Any] = {
    "embed": ["--model", "--input", "--output", "--format", "--prompt-name", "--instruction", "--dim", "--precision",
              "--max-tokens", "--truncate", "--pooling", "--attention", "--end-token", "--threads", "--device",
              "--vram", "--ram", "--kv-type", "--verbose"],
    "similarity": ["--model", "--prompt-name", "--dim", "--pooling", "--attention", "--end-token", "--device", "--vram",
                   "--ram", "--kv-type", "--verbose"],
    "inspect": ["--json", "--pooling", "--attention", "--end-token", "--verbose"],
    "plan": ["--vram", "--ram", "--max-tokens", "--kv-type", "--pooling", "--attention", "--end-token", "--json",
             "--verbose"],
    "bench": ["--texts", "--json", "--seconds", "--pooling", "--attention", "--end-token", "--threads", "--strategy",
              "--device", "--vram", "--ram", "--kv-type", "--verbose"],
    "doctor": ["--json", "--checksums", "--verbose"],
    "pull": ["--verbose"],
    "list": ["--json", "--verbose"],
    "rm": ["--yes", "--verbose"],
    "convert": ["--output", "--quant", "--token-embedding-type", "--threads", "--pooling", "--force", "--revision",
                "--verbose"],
}  # fmt: skip


def test_every_command_and_option_has_help():
    """Each has a help text, and the list in this test has all of them."""
    from qgguf.cli import cli

    assert {name: [option.opts[-1] for option in command.params if option.opts[-1].startswith("--")]
            for name, command in cli.commands.items()} == COMMANDS  # fmt: skip
    for command in cli.commands.values():
        assert command.help
        for option in command.params:
            explained = getattr(option, "help", None) or getattr(option, "show_default", None)
            assert explained or not option.opts[0].startswith("-"), option.opts


def test_help_is_quick_and_light(tmp_path: Path):
    """Under 0.3 s, and without numpy, llama_cpp, huggingface_hub or tqdm; so is every command's help."""
    best = 9.0
    for _ in range(5):
        started = time.perf_counter()
        done = qgguf("--help", home=tmp_path)
        best = min(best, time.perf_counter() - started)
    assert done.returncode == 0 and best < 0.3
    for command in COMMANDS:
        code = (
            "import sys\nfrom qgguf.cli import main\n"
            f"sys.argv = ['qgguf', {command!r}, '--help']\n"
            "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
            "heavy = {'numpy', 'llama_cpp', 'huggingface_hub', 'tqdm', 'gguf'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = run_code(code, home=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Usage: qgguf {command} ")


def test_version(tmp_path: Path):
    """`--version` prints the version of the package."""
    from qgguf import __version__

    assert qgguf("--version", home=tmp_path).stdout.decode().split() == ["qgguf", __version__]


def test_unexpected_error_is_one_line(tmp_path: Path):
    """An unexpected error is called a bug and asks for a report; -v shows the traceback."""
    code = "import qgguf.cli as c, sys\nc.embed.callback = lambda **_: 1 / 0\nsys.argv[0] = 'qgguf'\nc.main()"
    for options, traceback in ([], False), (["-v"], True):
        done = run_code(code, *options, "embed", "x", home=tmp_path)
        assert done.returncode == 1 and ("Traceback" in done.stderr) == traceback
        assert traceback or "Error: ZeroDivisionError: division by zero. This is a bug in qgguf" in done.stderr
