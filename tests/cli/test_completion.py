"""What Tab offers, and the scripts that turn it on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.discovery.projects import ECR, project, table
from tests.peers import require
from tests.world import REGISTRY, World


def press_tab(world: World, words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What bash's script asks the program for when Tab is pressed behind these words."""
    line = ["refresher", *words.split(" ")]
    asked = {
        "_REFRESHER_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    return subprocess.run(
        [Path(sys.executable).with_name("refresher")],
        env=world.process_environ() | asked | more,
        cwd=world.directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def offered(world: World, words: str) -> list[str]:
    """The words that Tab offers in place of the last of these."""
    done = press_tab(world, words)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(world: World, shell: str) -> None:
    """It calls the program by its name, and the shell can read it."""
    done = world.cli("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_REFRESHER_COMPLETE={shell}_complete" in done.stdout
    reader = shutil.which(shell)
    if reader is not None:
        read = subprocess.run([reader, "-n"], input=done.stdout, text=True, check=False)
        assert read.returncode == 0


#: How each shell is asked what Tab would offer behind `refresher once `, without a terminal.
ASKED = {
    "bash": 'eval "$(refresher completion bash)"; COMP_WORDS=(refresher once ""); COMP_CWORD=2;'
    ' _refresher_completion refresher; printf "%s\\n" "${COMPREPLY[@]}"',
    # Its own completion needs a line editor, so what it is handed is printed.
    "zsh": "compdef() { :; }; compadd() { print -l $completions; };"
    ' eval "$(refresher completion zsh)"; words=(refresher once ""); CURRENT=3;'
    " _refresher_completion",
    "fish": 'refresher completion fish | source; complete --do-complete "refresher once "',
}


@pytest.mark.parametrize("shell", ASKED)
def test_the_script_works_in_its_shell(world: World, shell: str) -> None:
    """As the help says to use it."""
    world.configure({"ecr": REGISTRY, "ecr-eu": REGISTRY})
    own = Path(sys.executable).parent
    done = subprocess.run(
        [require(shell), "-c", ASKED[shell]],
        env=world.process_environ() | {"PATH": f"{own}:{os.environ['PATH']}"},
        cwd=world.directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["ecr", "ecr-eu"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_help_says_how_to_turn_it_on(world: World, shell: str) -> None:
    """Each shell by its own script."""
    assert f"refresher completion {shell}" in world.cli("completion", "--help").stdout


def test_commands_and_options_are_offered(world: World) -> None:
    """Those of a group as well."""
    assert offered(world, "st") == ["status"]
    assert offered(world, "config s") == ["schema", "show"]
    assert offered(world, "once --max") == ["--max-age"]


@pytest.mark.parametrize(
    "command",
    ["once", "refresh", "status", "history", "pause", "resume", "token", "policy", "doctor"],
)
def test_targets_are_offered_by_name(world: World, command: str) -> None:
    """Wherever one is asked for."""
    world.configure({"ecr": REGISTRY, "ecr-eu": REGISTRY, "gar": REGISTRY})
    assert offered(world, f"{command} ecr") == ["ecr", "ecr-eu"]


def test_targets_of_a_project_are_offered(world: World) -> None:
    """Who runs on a project alone has no file in which they stand."""
    folder = project(world.directory / "p", {"pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD")})
    world.extra["REFRESHER_FAL_PROJECT"] = str(folder)
    world.config.write_text("")
    assert offered(world, "once e") == ["ecr"]
    (folder / "pyproject.toml").unlink()
    assert offered(world, "once e") == []


def test_a_target_is_offered_once(world: World) -> None:
    """And from the file that the command names."""
    other = world.directory / "other.toml"
    world.write_config(other, {"one": REGISTRY, "two": REGISTRY})
    assert offered(world, f"once --config {other} one ") == ["two"]


@pytest.mark.parametrize(
    "text",
    [b"", b"targets = 1", b"[targets", b"\xff", b"a = " + b"[" * 100_000],
    ids=["empty", "no table", "not TOML", "not UTF-8", "too deep"],
)
def test_a_file_that_cannot_be_read_offers_nothing(world: World, text: bytes) -> None:
    """An error in the middle of a command line helps nobody."""
    world.config.write_bytes(text)
    assert offered(world, "status e") == []
    world.config.unlink()
    assert offered(world, "status e") == []


def test_tab_is_fast(world: World) -> None:
    """Nothing is imported that only the work itself needs."""
    done = press_tab(world, "status e", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "refresher.cli.completion" in imported
    assert not imported & {"pydantic", "httpx", "boto3", "grpc", "sqlalchemy", "refresher.config"}
