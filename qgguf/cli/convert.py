"""qgguf convert."""

from pathlib import Path

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import threads_option
from qgguf.model.spec import POOLING_NAMES
from qgguf.settings import threads_setting


@click.command()
@click.argument("checkpoint")
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="A file or folder. Default: NAME-QUANT.gguf here."
)
@click.option(
    "--quant", default="Q4_K_M", show_default=True, metavar="TYPE", help="F32, F16, BF16, Q8_0, Q6_K, Q4_K_M, ..."
)
@click.option("--token-embedding-type", metavar="TYPE", help="Another type for the token embeddings.")
@threads_option
@click.option("--pooling", type=click.Choice(POOLING_NAMES), help="For a checkpoint that declares none.")
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a repository.")
@verbose_option
def convert(
    checkpoint: str,
    out: Path | None,
    quant: str,
    token_embedding_type: str | None,
    threads: int | None,
    pooling: str | None,
    force: bool,
    revision: str | None,
) -> None:
    """Make a GGUF of a Hugging Face checkpoint, in one pass.

    CHECKPOINT is a folder, or a repository (owner/name) that is fetched.

    \b
    qgguf convert ./my-model --quant Q8_0
    qgguf convert Qwen/Qwen3-Embedding-0.6B -o models/
    """
    from qgguf import convert_checkpoint
    from qgguf.cli.progress import bar
    from qgguf.units import readable

    with bar(f"Fetching {checkpoint}") as show_fetch, bar("Converting") as show:
        path = convert_checkpoint(
            checkpoint,
            out,
            quant=quant,
            token_embedding_type=token_embedding_type,
            pooling=pooling,
            threads=threads_setting(threads),
            force=force,
            revision=revision,
            on_progress=show,
            on_fetch=show_fetch,
        )
    click.echo(f'{path} is made, {readable(path.stat().st_size)}. Try it: qgguf embed -m {path} "a text"')
