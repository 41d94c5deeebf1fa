"""`doctor` as a person and a program see it."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from refresher.cli.doctor import shown
from refresher.doctor import Check
from refresher.sandbox.aws import ACCESS_KEY_ID
from tests.cli.test_terminal import on_terminal
from tests.world import REGISTRY, World

ROLE = "arn:aws:iam::123456789012:role/fal-pull"


def test_where_nothing_is_broken_it_ends_with_0(world: World) -> None:
    """A checklist of the machine, of each target and of all peers, in 80 columns."""
    done = world.cli("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line[:1] != " "] == [
        "this machine",
        "ecr",
        "all peers",
        "nothing is broken",
    ]
    assert max(map(len, lines)) <= 80
    assert "  ✓ identity       arn:aws:iam::123456789012:user/ci, no role" in lines
    assert "✗" not in done.stdout
    assert world.fal.writes == []


def test_what_is_broken_ends_with_1(world: World) -> None:
    """Each with its cause and its fix, and what needs it is not tried."""
    world.extra["FAL_KEY"] = "a:b"
    world.config.write_text(f'{world.config.read_text()}aws = {{ role_arn = "{ROLE}" }}\n')
    done = world.cli("doctor", "ecr")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "✗ identity sts.us-east-1: AssumeRole refused (AccessDenied): User: arn" in said
    assert "fix: `refresher policy ecr` prints what must be allowed ? credential" in said
    assert "? credential not tried: identity comes first" in said
    assert "✗ fal key" in said
    assert done.stdout.splitlines()[-1] == "2 broken, each with its fix above"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_has_every_check(world: World) -> None:
    """The same as the table, with the machine's and the peers' beside those of the targets."""
    document = world.json("doctor")
    assert document["ok"] is True
    assert [check["name"] for check in document["checks"]] == [
        "config",
        "references",
        "state",
        "clock",
    ]
    (target,) = document["targets"]
    assert target["name"] == "ecr"
    assert target["checks"][0] == {
        "name": "config",
        "ok": True,
        "words": f"ecr, {REGISTRY}",
        "fix": "",
    }
    world.extra["AWS_ACCESS_KEY_ID"] = None
    done = world.cli("doctor", "--output", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False


def test_no_credential_is_shown(world: World) -> None:
    """Neither ours nor one that was issued, wherever it is broken, even with --debug."""
    world.extra["FAL_KEY"] = "canary-id:canary-77aa"
    world.registry.stop()
    done = world.cli("doctor", "--debug")
    assert done.returncode == 1
    for value in ("canary-77aa", world.environ["AWS_SECRET_ACCESS_KEY"], ACCESS_KEY_ID):
        assert value not in done.stdout + done.stderr


def test_a_bad_configuration_is_broken(world: World) -> None:
    """It is the first thing to look at, and all that can be looked at."""
    world.config.write_text(world.config.read_text().replace("[fal]", "[fla]"))
    done = world.cli("doctor")
    assert done.returncode == 1
    assert "✗ config" in done.stdout
    assert "fla" in done.stdout
    assert done.stderr == ""


def test_no_configuration_at_all_is_broken(world: World) -> None:
    """With where it was looked for, and how to come by one."""
    world.extra["REFRESHER_CONFIG"] = None
    world.config.unlink()
    done = world.cli("doctor")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())
    assert "no configuration found: looked for config/refresher.toml, " in said
    assert "fix: make one with `refresher discover . --write config/refresher.toml`, or" in said


def test_an_unknown_target_is_wrong_usage(world: World) -> None:
    """As everywhere, with the nearest name."""
    done = world.cli("doctor", "erc")
    assert done.returncode == 2
    assert 'no target is named "erc"; did you mean ecr?' in done.stderr


def test_a_fal_project_is_looked_at_as_well(world: World) -> None:
    """With a configuration that refines it; the app that uses the secret is named."""
    app = f"""
[tool.fal.apps.web.image]
image = "{REGISTRY}/team/app:1"
[tool.fal.apps.web.image.registries."{REGISTRY}"]
username = "AWS"
password = "$AWS_ECR_PASSWORD"
"""
    project = world.directory / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(app)
    done = world.cli("doctor", "--fal-project", str(project))
    assert done.returncode == 0, done.stdout
    assert "✓ project        $AWS_ECR_PASSWORD is used by web (pyproject.toml:" in done.stdout


def test_beside_a_daemon_it_reads_its_state(world: World) -> None:
    """And leaves the daemon alone."""
    with world.daemon():
        world.cli("refresh", "ecr")
        writes = len(world.fal.writes)
        done = world.cli("doctor")
    assert done.returncode == 0, done.stdout
    assert "✓ state          remembers 1 target" in done.stdout
    assert "✓ secret main    AWS_ECR_PASSWORD is there, written by us at" in done.stdout
    assert len(world.fal.writes) == writes


@pytest.mark.parametrize(("ok", "mark"), [(True, "✓"), (False, "✗"), (None, "?")])
def test_a_long_text_stands_in_its_column(ok: bool | None, mark: str) -> None:
    """Whatever the length of text and name."""
    lines = click.unstyle(shown(Check("name", ok, "word " * 40, "do " * 60))).splitlines()
    assert lines[0].startswith(f"  {mark} name           word")
    assert all(line.startswith(" " * 19) for line in lines[1:])
    assert max(map(len, lines)) <= 80
    long = click.unstyle(shown(Check("secret " + "e" * 60, ok, "word " * 40))).splitlines()
    assert long[1].startswith(" " * 19 + "word")


def test_marks_have_colours_on_a_terminal(world: World, tmp_path: Path) -> None:
    """Green for good; a pipe never sees any."""
    coloured, _ = on_terminal(world, "doctor")
    assert click.style("✓", fg="green") in coloured
    assert "\x1b" not in world.cli("doctor").stdout
