"""The command `qgguf convert`."""

from pathlib import Path

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import threads_option
from qgguf.cli.streams import report
from qgguf.convert.quant_recipes import QUANTS, TOKEN_EMBEDDING_TYPES
from qgguf.model.spec import POOLING_NAMES
from qgguf.settings import threads_setting


@click.command()
@click.argument("checkpoint")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help="The file to write, or its folder. Default: NAME-QUANT.gguf in the current folder.",
)
@click.option(
    "--quant",
    type=click.Choice(list(QUANTS), case_sensitive=False),
    default="Q4_K_M",
    show_default=True,
    metavar="TYPE",
    help=f"Quantisation: {', '.join(QUANTS)}.",
)
@click.option(
    "--token-embedding-type",
    type=click.Choice(list(dict.fromkeys((*QUANTS, *TOKEN_EMBEDDING_TYPES))), case_sensitive=False),
    metavar="TYPE",
    help="Another type for the token embeddings alone.",
)
@threads_option
@click.option("--pooling", type=click.Choice(POOLING_NAMES), help="For a checkpoint that declares none.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository.")
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
    """Convert a Hugging Face checkpoint to a GGUF file.

    CHECKPOINT is a folder, or a repository (owner/name), which is downloaded.

    \b
    qgguf convert ./my-model --quant Q8_0
    qgguf convert Qwen/Qwen3-Embedding-0.6B -o models/
    """
    from qgguf import convert_checkpoint
    from qgguf.atomic_file import is_written_through
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
    if is_written_through(path):
        click.echo(f"Wrote {path}.", err=True)  # stdout may be the file itself
        return
    report(f'Wrote {path}, {readable(path.stat().st_size)}. Try it: qgguf embed -m {path} "a text"')
