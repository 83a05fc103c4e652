"""Make tests/golden/: the vectors that sentence-transformers gives for the golden texts, in float32.

Run it again only after a change of the texts or of the small checkpoint. It needs torch:

    python -m venv /tmp/golden && /tmp/golden/bin/pip install torch==2.13.0 sentence-transformers
    /tmp/golden/bin/python scripts/make_golden.py

For each model it writes <name>.npz (vectors, float32; token counts before any cut) and <name>.json (how it was made).
"""

import datetime
import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers
from sentence_transformers import SentenceTransformer

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for use from a checkout

from tests.support.checkpoints import make_qwen3_checkpoint  # noqa: E402
from tests.support.minilm import fetch  # noqa: E402
from tests.support.texts import ENGLISH, GOLDEN, QUERIES  # noqa: E402

COMMAND = "python scripts/make_golden.py"


def texts_sha256() -> str:
    """Return the digest of the texts that the vectors belong to."""
    return hashlib.sha256(json.dumps([GOLDEN, QUERIES, ENGLISH]).encode()).hexdigest()


def n_tokens(model: SentenceTransformer, texts: list[str]) -> list[int]:
    """Return the number of tokens of each whole text, end token included, before any cut."""
    return [len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in texts]


def make(name: str, checkpoint: Path, source: str) -> None:
    """Write tests/golden/<name>.npz and .json for one checkpoint."""
    model = SentenceTransformer(str(checkpoint), device="cpu", model_kwargs={"dtype": torch.float32})
    model.eval()
    prompt = model.prompts.get("query") or ""
    documents, queries = list(GOLDEN.values()), list(QUERIES.values())
    arrays: dict[str, Any] = {
        # One text at a time: no padding in the reference.
        "documents": np.stack([model.encode(text, normalize_embeddings=True) for text in documents]),
        "queries": np.stack([model.encode(prompt + text, normalize_embeddings=True) for text in queries]),
        "english": model.encode(ENGLISH, batch_size=1, normalize_embeddings=True),
        "n_tokens_documents": np.array(n_tokens(model, documents)),
        "n_tokens_queries": np.array(n_tokens(model, [prompt + text for text in queries])),
    }
    by_name = model.encode_query(queries[:1], normalize_embeddings=True)
    assert np.allclose(by_name[0], arrays["queries"][0], atol=1e-6), "encode_query uses another prompt"
    assert arrays["documents"].dtype == np.float32
    np.savez_compressed(REPOSITORY / "tests" / "golden" / f"{name}.npz", **arrays)
    about = {
        "model": source,
        "weights_sha256": hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest(),
        "texts_sha256": texts_sha256(),
        "query_prompt": prompt,
        "max_seq_length": model.max_seq_length,
        "command": COMMAND,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
        "documents": list(GOLDEN),
        "queries": list(QUERIES),
    }
    text = json.dumps(about, indent=2, ensure_ascii=False)
    (REPOSITORY / "tests" / "golden" / f"{name}.json").write_text(text + "\n", "utf-8")
    cosines = arrays["documents"] @ arrays["documents"].T
    print(f"{name}: {cosines.shape}, cosines between texts {np.percentile(cosines, [0, 5, 50, 95])}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    make("minilm", fetch(REPOSITORY / ".cache"), "sentence-transformers/all-MiniLM-L6-v2")
    with tempfile.TemporaryDirectory() as folder:
        make(
            "qwen3",
            make_qwen3_checkpoint(Path(folder) / "qwen3"),
            "tests/support/checkpoints.py: make_qwen3_checkpoint()",
        )
