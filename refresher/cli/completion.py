"""Completion in shells: the script that turns it on, and the names of targets."""

from __future__ import annotations

import tomllib

import click
from click.shell_completion import CompletionItem, get_completion_class

from refresher.cli.exits import Exit
from refresher.cli.output import say
from refresher.cli.settings import Settings
from refresher.errors import ConfigError

#: click derives the variable from the program's name.
_PROGRAM, _VARIABLE = "refresher", "_REFRESHER_COMPLETE"


@click.command(epilog="Example: refresher completion bash > refresher.bash")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> Exit:
    """Print a script that completes commands, options and targets.

    \b
    ~/.bashrc    eval "$(refresher completion bash)"
    ~/.zshrc     autoload -Uz compinit && compinit
                 eval "$(refresher completion zsh)"
    config.fish  refresher completion fish | source
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice above holds click's own names
    say(kind(context.find_root().command, {}, _PROGRAM, _VARIABLE).source().strip())
    return Exit.GOOD


def target_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The targets of the configuration's file that begin so, but those that are given already.

    None where the file cannot be read: whoever presses Tab wants no error.
    """
    given = context.params.get(parameter.name or "") or ()
    names = [name for name in _configured(context.ensure_object(Settings)) if name not in given]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _configured(settings: Settings) -> list[str]:
    """Read without validation, which is slow to import; a project cannot be."""
    try:
        if settings.project is not None:
            return list(settings.compose(settings.project, "nothing").config.targets)
        path = settings.path
        if not path.is_file():  # a pipe would be waited for
            return []
        targets = tomllib.loads(path.read_text("utf-8-sig")).get("targets")
    except (ConfigError, OSError, ValueError, RecursionError):
        return []
    return list(targets) if isinstance(targets, dict) else []
