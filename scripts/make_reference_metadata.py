"""Write tests/data/reference_metadata.json with llama.cpp's own converter, where torch and transformers live.

    python scripts/make_reference_metadata.py LLAMA_CPP MINILM

LLAMA_CPP   a llama.cpp tree with `conversion/` and `gguf-py/` (vendor/llama.cpp of llama-cpp-python's source package)
MINILM      the all-MiniLM-L6-v2 checkpoint folder (tests/support/minilm.py)
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
OUT = REPOSITORY / "tests" / "data" / "reference_metadata.json"
# file types by llama.cpp's converter's names
FTYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}


def convert(checkpoint: Path, out: Path, quant: str) -> Path:
    """Convert a checkpoint with llama.cpp's own converter; return the GGUF file."""
    import gguf
    import torch
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture

    config = ModelBase.load_hparams(checkpoint, False)
    converter = get_model_class(get_model_architecture(config, ModelType.TEXT))
    with torch.inference_mode():
        converter(checkpoint, getattr(gguf.LlamaFileType, FTYPES[quant]), out).write()
    return out


def main(llama_cpp: Path, minilm: Path) -> None:
    """Write the metadata that llama.cpp's converter gives to the reference checkpoints."""
    sys.path[:0] = [str(llama_cpp / "gguf-py"), str(llama_cpp), str(REPOSITORY)]
    import torch
    import transformers

    from tests.support.reference_checkpoints import MADE, MINILM, boiled_down

    found = {}
    with tempfile.TemporaryDirectory() as work:
        for number, (name, (make, quant)) in enumerate(MADE.items()):
            checkpoint = make(Path(work) / str(number), minilm)
            found[name] = boiled_down(convert(checkpoint, Path(work) / f"{number}.gguf", quant))
        found[MINILM] = boiled_down(convert(minilm, Path(work) / "minilm.gguf", "F32"))
    provenance = {
        "command": "python scripts/make_reference_metadata.py LLAMA_CPP MINILM",
        "converter": "conversion/ of the llama.cpp in llama-cpp-python 0.3.36 (commit 0c1e57098bba)",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    text = json.dumps({"provenance": provenance, "files": found}, ensure_ascii=False, indent=1)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(f"{OUT}: {len(found)} files")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
