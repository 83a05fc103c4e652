"""The models with a short name: official repositories, pinned commits, published checksums."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a published model.

    size_bytes  None where only a rounded size is published
    sha256      None where none is published; the hub's own checksum is used instead
    """

    name: str
    size_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A repository with a short name.

    revision       pinned commit, so that later pushes to the repository change nothing here
    default_quant  quantisation of the short name alone
    files          quantisation in upper case -> file
    """

    repo: str
    revision: str
    default_quant: str
    files: dict[str, PublishedFile]


CATALOGUE: dict[str, PublishedModel] = {
    "qwen3-embedding-0.6b": PublishedModel(
        repo="Qwen/Qwen3-Embedding-0.6B-GGUF",
        revision="370f27d7550e0def9b39c1f16d3fbaa13aa67728",
        # The smallest file of the repository.
        default_quant="Q8_0",
        files={
            "Q8_0": PublishedFile(
                "Qwen3-Embedding-0.6B-Q8_0.gguf",
                639_150_592,
                "06507c7b42688469c4e7298b0a1e16deff06caf291cf0a5b278c308249c3e439",
            ),
            "F16": PublishedFile(
                "Qwen3-Embedding-0.6B-f16.gguf",
                1_197_629_632,
                "421a27e58d165478cc7acb984a688c2aa41404968b0203e7cd743ece44c54340",
            ),
        },
    ),
    "qwen3-embedding-4b": PublishedModel(
        repo="Qwen/Qwen3-Embedding-4B-GGUF",
        revision="f4602530db1d980e16da9d7d3a70294cf5c190be",
        default_quant="Q4_K_M",
        files={
            "Q4_K_M": PublishedFile(
                "Qwen3-Embedding-4B-Q4_K_M.gguf",
                sha256="2b0cf8f17b4c723c27303015383c27ec4bf2d8314bb677d05e920dd70bb0f16b",
            ),
            "Q5_0": PublishedFile("Qwen3-Embedding-4B-Q5_0.gguf"),
            "Q5_K_M": PublishedFile("Qwen3-Embedding-4B-Q5_K_M.gguf"),
            "Q6_K": PublishedFile("Qwen3-Embedding-4B-Q6_K.gguf"),
            "Q8_0": PublishedFile("Qwen3-Embedding-4B-Q8_0.gguf"),
            "F16": PublishedFile("Qwen3-Embedding-4B-f16.gguf"),
        },
    ),
    "qwen3-embedding-8b": PublishedModel(
        repo="Qwen/Qwen3-Embedding-8B-GGUF",
        revision="69d0e58a13e463cd99a9b83e3f5fee7c10265fab",
        default_quant="Q4_K_M",
        files={
            "Q4_K_M": PublishedFile(
                "Qwen3-Embedding-8B-Q4_K_M.gguf",
                sha256="3fcd3febec8b3fd64435204db75bf0dd73b91e8d0661e0331acfe7e7c3120b85",
            ),
            "Q5_0": PublishedFile(
                "Qwen3-Embedding-8B-Q5_0.gguf",
                5_291_991_360,
                "5de04c970746c64ddd21434a5eb21ff10a2ec247c9e78ef6d48e73a81c3672ce",
            ),
            "Q5_K_M": PublishedFile("Qwen3-Embedding-8B-Q5_K_M.gguf"),
            "Q6_K": PublishedFile("Qwen3-Embedding-8B-Q6_K.gguf"),
            "Q8_0": PublishedFile("Qwen3-Embedding-8B-Q8_0.gguf"),
            "F16": PublishedFile("Qwen3-Embedding-8B-f16.gguf"),
        },
    ),
}


def short_name(repo: str, revision: str, file_name: str) -> str | None:
    """Return the catalogue's name for a file of a repository, or None.

    >>> short_name("Qwen/Qwen3-Embedding-4B-GGUF", "f4602530db1d980e16da9d7d3a70294cf5c190be",
    ...            "Qwen3-Embedding-4B-Q8_0.gguf")
    'qwen3-embedding-4b:Q8_0'
    """
    for name, model in CATALOGUE.items():
        if (model.repo, model.revision) != (repo, revision):
            continue
        for quant, file in model.files.items():
            if file.name == file_name:
                return name if quant == model.default_quant else f"{name}:{quant}"
    return None


def published_file(name: str) -> PublishedFile | None:
    """Return what is published of a model with a name of `short_name`; None for any other name.

    >>> published_file("qwen3-embedding-4b").name
    'Qwen3-Embedding-4B-Q4_K_M.gguf'
    """
    short, _, quant = name.partition(":")
    model = CATALOGUE.get(short)
    return model.files.get(quant or model.default_quant) if model else None
