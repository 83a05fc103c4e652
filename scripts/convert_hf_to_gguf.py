"""Convert a Hugging Face checkpoint to GGUF: `qgguf convert`, under the name that llama.cpp's users know.

python scripts/convert_hf_to_gguf.py CHECKPOINT [-o OUT] [--quant Q4_K_M] [--token-embedding-type T] [--threads N]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qgguf.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    main()
