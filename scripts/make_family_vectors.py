"""Make tests/golden/families.npz: ids and vectors of a small checkpoint of each family, by transformers in float32.

Run it again only after a change of the checkpoints or the texts. It needs torch:

    python -m venv /tmp/families && /tmp/families/bin/pip install torch==2.13.0 transformers==5.24.0
    /tmp/families/bin/python scripts/make_family_vectors.py

It writes families.npz (per family: ids of all texts in a row, their number per text, vectors of length 1) and
families.json (how it was made, and the digest of each checkpoint).
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
import tokenizers
import torch
import transformers

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for use from a checkout

from tests.support.family_checkpoints import FAMILIES, TEXTS, FamilyCheckpoint  # noqa: E402

COMMAND = "python scripts/make_family_vectors.py"


def ids_of(family: FamilyCheckpoint, *, cut: bool) -> list[list[int]]:
    """Return the ids of each text, whole or cut to the limit."""
    tokenizer = family.reference(cut=cut)
    return [tokenizer.encode(text).ids for text in family.texts.values()]


def vectors_of(family: FamilyCheckpoint, ids: list[list[int]], folder: Path) -> np.ndarray:
    """Return the vector of each text, computed alone: model, pooling, Dense layers, length 1."""
    model, report = transformers.AutoModel.from_pretrained(
        family.write(folder), dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    model.eval()
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"], report
    dense = [torch.from_numpy(tensor.values(0)) for tensor in family.dense]
    vectors = []
    for text_ids in ids:
        inputs: dict[str, Any] = {"input_ids": torch.tensor([text_ids])}
        if family.bidirectional:
            inputs["attention_mask"] = torch.zeros(1, 1, len(text_ids), len(text_ids))
        rows = model(**inputs).last_hidden_state[0]
        vector = {"mean": rows.mean(dim=0), "cls": rows[0], "last": rows[-1]}[family.pooling]
        for weights in dense:
            vector = weights @ vector
        vectors.append(torch.nn.functional.normalize(vector, dim=0).numpy())
    return np.stack(vectors)


def main() -> None:
    """Write both files."""
    torch.set_grad_enabled(False)
    arrays: dict[str, Any] = {}
    digests = {}
    for name, make in FAMILIES.items():
        family = make()
        ids = ids_of(family, cut=False)
        with tempfile.TemporaryDirectory() as folder:
            vectors = vectors_of(family, ids_of(family, cut=True), Path(folder) / name)
        digests[name] = family.sha256()
        arrays[name + ".ids"] = np.concatenate([np.array(text_ids, np.uint16) for text_ids in ids])
        arrays[name + ".lengths"] = np.array([len(text_ids) for text_ids in ids], np.uint16)
        arrays[name + ".vectors"] = vectors.astype(np.float32)
        between = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
        print(f"{name}: {len(ids)} texts, cosines between them {np.percentile(between, [0, 5, 50, 95]).round(3)}")
    about = {
        "texts_sha256": hashlib.sha256(json.dumps(TEXTS).encode()).hexdigest(),
        "checkpoints_sha256": digests,
        "command": COMMAND,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }
    golden = REPOSITORY / "tests" / "golden"
    np.savez_compressed(golden / "families.npz", **arrays)
    (golden / "families.json").write_text(json.dumps(about, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
