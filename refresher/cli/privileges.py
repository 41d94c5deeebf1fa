"""`policy`: the least that each principal needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import say, say_json, wrapped
from refresher.cli.settings import Settings, require_known

if TYPE_CHECKING:
    from refresher.privileges import Privileges


@click.command("policy", epilog="Example: refresher policy ecr --output json")
@options.targets
@options.output
@options.common
@options.settings
def policy(settings: Settings, names: tuple[str, ...], as_json: bool) -> Exit:
    """Print the least privileges that TARGETs need.

    An IAM policy, a Google role, a registry's scope, the permissions of a fal key.
    """
    from refresher.cli.building import targets_of
    from refresher.privileges import needed

    config = settings.load("nothing")
    require_known(names, config.targets)
    with targets_of(config):  # hosts and images are good
        found = needed(config, names or config.targets)
    if as_json:
        say_json(found)
    else:
        _say(found)
    return Exit.GOOD


def _say(found: Privileges) -> None:
    for aws in found["aws"]:
        _heading("AWS", aws["principal"], aws["targets"])
        say(json.dumps(aws["policy"], indent=2))
    for google in found["google"]:
        _heading("Google", google["account"], google["targets"])
        say(wrapped("  ", f"{google['role']} on {google['on']}"))
    for registry in found["registries"]:
        _heading(registry["registry"], f"user {registry['username']}", registry["targets"])
        say(wrapped("  ", registry["scope"]))
    for fal in found["fal"]:
        _heading("fal", f"account {fal['account']}", fal["targets"])
        write, read = fal["permissions"]
        say(wrapped("  ", f"needs {write}; with {read} it can also say what it overwrites"))
        say(f"  {fal['command']}")


def _heading(grantor: str, who: str, targets: list[str]) -> None:
    say(wrapped(f"# {grantor}: ", f"{who} (for {', '.join(targets)})"))
