"""Names of hub repositories ("owner/name"), and the names of their folders in the hub cache. Pure."""

import re

_PART = r"\w(?:(?:\w|-(?!-)|\.(?!\.)){0,94}\w)?"
REPO = rf"{_PART}/{_PART}(?<!\.git)"
"""Pattern of "owner/name" under `re.ASCII`: the rule of `huggingface_hub.utils.validate_repo_id`, the owner required.

Each part has 1 to 96 letters, digits, "_", "-" and ".", begins and ends with a letter, a digit or "_", and has neither
"--" nor ".." in it; the name does not end in ".git".
"""

_REPO = re.compile(REPO, re.ASCII)
_FOLDER = "models--"


def is_repo_name(text: str) -> bool:
    """Return whether a text has the form of a repository's name.

    >>> is_repo_name("Qwen/Qwen3-Embedding-0.6B"), is_repo_name("../x"), is_repo_name("gpt2")
    (True, False, False)
    """
    return bool(_REPO.fullmatch(text))


def folder_of_repo(repo: str) -> str:
    """Return the name of a model repository's folder in the hub cache.

    >>> folder_of_repo("Qwen/Qwen3-Embedding-0.6B")
    'models--Qwen--Qwen3-Embedding-0.6B'
    """
    return _FOLDER + repo.replace("/", "--")


def repo_of_folder(name: str) -> str | None:
    """Return the repository that a folder of the hub cache belongs to; None for other folders and ownerless models.

    >>> repo_of_folder("models--Qwen--Qwen3-Embedding-0.6B"), repo_of_folder("models--gpt2")
    ('Qwen/Qwen3-Embedding-0.6B', None)
    """
    repo = name.removeprefix(_FOLDER).replace("--", "/", 1)
    return repo if name.startswith(_FOLDER) and is_repo_name(repo) else None
