"""``mltoolbox completion SHELL``: the script that makes the shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_INSTALL = {
    "bash": "mltoolbox completion bash >> ~/.bashrc",
    "zsh": "mltoolbox completion zsh >> ~/.zshrc",
    "fish": "mltoolbox completion fish > ~/.config/fish/completions/mltoolbox.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  mltoolbox completion bash >> ~/.bashrc
    zsh:   mltoolbox completion zsh >> ~/.zshrc
    fish:  mltoolbox completion fish > ~/.config/fish/completions/mltoolbox.fish
    """
    from ml_toolbox.cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:  # the choice above holds only shells that click knows
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(cli, {}, "mltoolbox", "_MLTOOLBOX_COMPLETE").source())
