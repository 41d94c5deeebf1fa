"""`discover`, and `--fal-project`, by which the other commands live on a project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refresher.cli.app import main
from refresher.config import load
from tests.discovery.projects import CANARY, ECR, project, table
from tests.world import REGISTRY, World, wait_for

Printed = pytest.CaptureFixture[str]

HUB = "https://index.docker.io/v1/"
LONG = "a/very/long/path/that/goes/on/for/ever/pyproject.toml"
FILES = {
    "pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", name="my-server"),
    "hub/pyproject.toml": table(HUB, CANARY, "myuser", name="worker"),
    LONG: table("ghcr.io", "$A_TOKEN_WITH_QUITE_A_LONG_NAME", "octocat", name="a-rather-long-name"),
    "broken.py": "registries = (",
}
#: An app whose registry nothing listens at.
LOCAL = table("localhost:1", "$LOCAL_TOKEN", "me", name="local")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, seen from a working directory with nothing else in it."""
    for name in ("REFRESHER_CONFIG", "REFRESHER_FAL_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return project(tmp_path / "p", FILES)


def test_the_table_tells_what_will_be_done(path: Path, capsys: Printed) -> None:
    """In 80 columns, with every name of a secret whole."""
    assert main(["discover", "p"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["APP", "SOURCE", "SECRET"]
    assert [line.strip() for line in lines[1:3]] == [
        "FILE:LINE, REGISTRY AS USERNAME",
        "WHAT WILL BE DONE",
    ]
    words = " ".join(printed.out.split())
    assert f"my-server ecr AWS_ECR_PASSWORD pyproject.toml:5, {ECR} as AWS ✓ target ecr: " in words
    assert f"a-rather-long-name oci A_TOKEN_WITH_QUITE_A_LONG_NAME {LONG}:5, ghcr.io as" in words
    assert "docker.io as myuser ✗ not kept: warning: a literal password stands here" in words
    assert [line[2] for line in lines if line.startswith(("  ✓", "  ✗"))] == ["✓", "✗", "✓"]
    assert "note: broken.py: not read: line 1 is not Python" in printed.err
    assert "refresher run --fal-project p" in printed.err
    assert CANARY not in printed.out + printed.err


def test_json_is_for_programs(path: Path, capsys: Printed) -> None:
    """The very keys that are promised, and nothing else on standard output."""
    assert main(["discover", "p", "--output", "json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document.keys() == {"findings", "targets"}
    keys = "app file line registry source username secret password advice"
    assert all(list(finding) == keys.split() for finding in document["findings"])
    assert [finding["password"] for finding in document["findings"]] == [
        "reference",
        "literal",
        "reference",
    ]
    assert document["targets"]["ecr"] == {
        "source": "ecr",
        "registry": ECR,
        "secret": "AWS_ECR_PASSWORD",
    }
    assert CANARY not in printed.out


@pytest.mark.parametrize("output", ["table", "json"])
def test_nothing_found_is_exit_1(tmp_path: Path, capsys: Printed, output: str) -> None:
    """As `grep` has it."""
    assert main(["discover", str(tmp_path), "--output", output]) == 1
    assert "no app in" in (said := capsys.readouterr().err)
    assert "`registries` of its image" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "Path 'nowhere' does not exist"),
        (("p", "--force"), "--force and --merge go with --write FILE"),
        (("p", "--write", "a.toml", "--force", "--merge"), "give one of them"),
        ((), "Missing argument 'PATH'. See `refresher discover --help`."),
    ],
)
def test_a_wrong_command_line_is_exit_2(
    path: Path, capsys: Printed, arguments: tuple[str, ...], said: str
) -> None:
    """Before anything is written."""
    assert main(["discover", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not Path("a.toml").exists()


def test_what_is_written_can_be_loaded(path: Path, capsys: Printed) -> None:
    """What has to be set is said."""
    assert main(["discover", "p", "--write", "config/refresher.toml"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "written to config/refresher.toml: " in printed
    assert "to be set: FAL_KEY, A_TOKEN_WITH_QUITE_A_LONG_NAME" in printed
    assert printed.endswith("note: next, `refresher doctor`, then `refresher run`")
    environ = {"HOME": "/", "FAL_KEY": "k", "A_TOKEN_WITH_QUITE_A_LONG_NAME": "t"}
    assert "ecr" in load(Path("config/refresher.toml"), environ).targets
    assert CANARY not in Path("config/refresher.toml").read_text()


def test_a_file_of_a_person_is_safe(path: Path, capsys: Printed) -> None:
    """Only what is missing is added, and only when that is asked for."""
    file = Path("refresher.toml")
    file.write_text("# mine\n")
    assert main(["discover", "p", "--write", "a b.toml"]) == 0
    assert "`refresher doctor --config 'a b.toml'`" in capsys.readouterr().err
    assert main(["discover", "p", "--write", str(file)]) == 1
    assert "is there already; add what is missing with --merge" in capsys.readouterr().err
    assert file.read_text() == "# mine\n"
    assert main(["discover", "p", "--write", str(file), "--merge"]) == 0
    merged = file.read_text()
    assert merged.startswith("# mine\n")
    capsys.readouterr()
    assert main(["discover", "p", "--write", str(file), "--merge"]) == 0
    assert "nothing is missing in refresher.toml" in capsys.readouterr().err
    assert file.read_text() == merged
    assert main(["discover", "p", "--write", str(file), "--force"]) == 0
    assert "# mine" not in file.read_text()


def test_nothing_is_written_where_nothing_can_be_kept(path: Path, capsys: Printed) -> None:
    """A configuration without a target would be refused."""
    assert main(["discover", "p/hub", "--write", "a.toml"]) == 1
    assert "nothing can be kept, so a.toml was not written" in capsys.readouterr().err
    assert not Path("a.toml").exists()


# --- the other commands -------------------------------------------------------------------------


def test_commands_live_on_a_project_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    """Named by the option or by the variable."""
    monkeypatch.chdir(project(tmp_path, {"p/pyproject.toml": FILES["pyproject.toml"]}))
    monkeypatch.delenv("REFRESHER_CONFIG", raising=False)
    monkeypatch.setenv("FAL_KEY", "id:secret")
    assert main(["config", "check", "--fal-project", "p"]) == 0
    assert capsys.readouterr().out == "ok: p, 1 target\n"
    monkeypatch.setenv("REFRESHER_FAL_PROJECT", "p")
    assert main(["config", "show", "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["targets"]["ecr"]["registry"] == ECR
    assert main(["config", "check", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "p"
    assert main(["config", "check", "--fal-project", "nowhere"]) == 2
    assert "nowhere: no such fal project" in capsys.readouterr().err


def test_once_lives_on_a_project_alone(world: World) -> None:
    """Its credential comes from the variable that is called as the secret."""
    folder = project(world.directory / "p", {"pyproject.toml": LOCAL})
    world.config.unlink()
    world.extra = {"REFRESHER_CONFIG": None, "REFRESHER_FAL_PROJECT": str(folder)}
    unset = world.cli("once")
    assert unset.returncode == 2
    assert "targets.local-token.password: environment variable LOCAL_TOKEN is not" in unset.stderr
    world.extra["LOCAL_TOKEN"] = "value"
    done = world.cli("once")
    assert (done.returncode, done.stdout.splitlines()[1].split()[0]) == (1, "local-token")
    assert "verify/unavailable" in done.stdout


def test_token_takes_a_target_of_the_project(world: World) -> None:
    """ECR's needs AWS alone."""
    pyproject = table(REGISTRY, "$ANOTHER_SECRET")
    folder = project(world.directory / "p", {"pyproject.toml": pyproject})
    done = world.cli("token", "another-secret", "--fal-project", str(folder))
    assert done.returncode == 0, done.stderr
    assert world.aws.passwords.issued(done.stdout.strip()) is not None


def test_run_keeps_what_a_project_uses_and_a_file_refines(world: World) -> None:
    """The log says what came from where, and what cannot be kept."""
    ours = table(REGISTRY, "$AWS_ECR_PASSWORD", name="ours")
    literal = table(HUB, CANARY, "myuser", name="literal")
    files = {"a/pyproject.toml": ours, "b/pyproject.toml": literal, "c/pyproject.toml": LOCAL}
    folder = project(world.directory / "p", files)
    world.extra = {"LOCAL_TOKEN": "value"}
    with world.daemon("--fal-project", str(folder)) as running:
        wait_for(lambda: world.secret, "a publish")
        targets = world.json("status")["targets"]
        assert [target["name"] for target in targets] == ["ecr", "local-token"]
        (composed,) = running.lines("config.composed")
        assert composed["from_file"] == ["ecr"]
        assert composed["from_project"] == {"local-token": "c/pyproject.toml:5"}
        assert (composed["file"], composed["project"]) == (str(world.config), str(folder))
        (unkept,) = running.lines("discovery.not_kept")
        assert unkept["message"].startswith("literal (b/pyproject.toml:5): not kept: warning: ")
    assert CANARY not in running.log.read_text()


def test_a_file_that_breaks_while_it_is_edited_takes_nothing_away(world: World) -> None:
    """The reload is refused; once it can be read again, it counts, by itself."""
    folder = project(world.directory / "p", {"a/pyproject.toml": LOCAL, "b.py": "registries = ("})
    world.extra = {"LOCAL_TOKEN": "value"}
    with world.daemon("--fal-project", str(folder)) as running:
        assert len(running.lines("discovery.unread")) == 1
        project(folder, {"a/pyproject.toml": "[tool.fal"})
        wait_for(lambda: running.lines("config.rejected"), "a refusal")
        (refused,) = running.lines("config.rejected")
        assert refused["message"].startswith("a/pyproject.toml: not read: not TOML")
        assert len(world.json("status")["targets"]) == 2
        project(folder, {"a/pyproject.toml": "[tool.fal]\n"})
        wait_for(lambda: running.lines("config.reloaded"), "a reload")
        assert len(world.json("status")["targets"]) == 1
