"""The last step of scripts/demo: convert a real checkpoint to GGUF, and rank documents for questions."""

import sys
import time
from pathlib import Path

from qgguf import Embedder, convert_checkpoint
from tests.support.minilm import fetch

REPOSITORY = Path(__file__).resolve().parent.parent
QUANTS = ("Q8_0", "Q4_K_M")
BAR = 24

DOCUMENTS = [
    "Bread keeps longest in a cloth bag at room temperature; the refrigerator makes it stale.",
    "To connect to PostgreSQL from Python, pass the host, user and password to psycopg.connect().",
    "The night train from Vienna reaches Venice at a quarter past eight in the morning.",
    "Vaccines train the immune system to recognise a virus before it meets the real one.",
    "Gustave Eiffel's company built the tower in Paris for the world's fair of 1889.",
    "Tomatoes need six hours of sun a day, and water at the roots, not on the leaves.",
]
QUESTIONS = [
    "how do I log in to my database from a script?",
    "why did my loaf go hard so quickly?",
    "When will I arrive in Italy?",
    "¿Quién construyó la torre Eiffel en París?",
    "Comment fonctionne un vaccin contre un virus ?",
]


def show(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


def convert(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """Convert to one GGUF file per quantisation in `folder`, which takes less than a second."""
    show(
        f"\nConverting {checkpoint.name} ({(checkpoint / 'model.safetensors').stat().st_size / 1e6:.0f} MB of float32)"
    )
    paths = {}
    for quant in QUANTS:
        started = time.perf_counter()
        path = convert_checkpoint(checkpoint, folder, quant=quant, force=True)
        seconds = time.perf_counter() - started
        show(f"  {path!s:38}{path.stat().st_size / 1e6:5.1f} MB  {seconds:.2f} s")
        paths[quant] = path
    return paths


def rank(path: Path) -> None:
    """Rank the documents for each question, and show the nearest three."""
    with Embedder(path) as model:
        started = time.perf_counter()
        scores = model.similarity(model.encode_query(QUESTIONS), model.encode_document(DOCUMENTS))
        seconds = time.perf_counter() - started
        show(f"\n{model!r}")
        show(f"{len(QUESTIONS)} questions, {len(DOCUMENTS)} documents, {1000 * seconds:.0f} ms; the nearest three:")
    for question, row in zip(QUESTIONS, scores, strict=True):
        show(f"\n  {question}")
        for number, index in enumerate(row.argsort()[::-1][:3], 1):
            bar = "█" * round(BAR * max(float(row[index]), 0))
            show(f"    {number}  {row[index]:5.2f}  {bar:<{BAR}}  {DOCUMENTS[index]}")


def main() -> None:
    """Download, convert, embed, and show the next commands."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")
    show("Downloading all-MiniLM-L6-v2 (91 MB, once), verified by its SHA-256")
    models = Path("models")
    models.mkdir(exist_ok=True)
    paths = convert(fetch(REPOSITORY / ".cache"), models)
    rank(paths["Q4_K_M"])
    model = paths["Q4_K_M"]
    show(f"\nThe model is {model.resolve()}\nNext, in {Path.cwd()}:")
    show(f'  .venv/bin/qgguf embed "your own text" -m {model}')
    show(f'  .venv/bin/qgguf similarity "a cat" "a kitten" "a tax form" -m {model}')
    show("  .venv/bin/qgguf pull qwen3-embedding-0.6b      100 languages, 639 MB from huggingface.co")


if __name__ == "__main__":
    main()
