"""The configuration that is written: it can be loaded, and nothing of a person's is lost."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest

from refresher.config import load
from refresher.discovery import Discovery, discover, merge, variables, write
from refresher.errors import ConfigError, RefresherError
from tests.discovery.projects import ECR, app, login, project, table
from tests.discovery.test_documentation import (
    ARTIFACT_REGISTRY_PYPROJECT,
    DOCKER_HUB_PYPROJECT,
    ELASTIC_PYPROJECT,
)

HUB = "https://index.docker.io/v1/"
ENVIRON = {"HOME": "/home/u", "FAL_KEY": "id:secret"}
MINE = (
    b"# mine,  with  blanks \n[targets.mine]\nsource='ecr'\n"
    b"registry='" + ECR.encode() + b"'\nsecret='AWS_ECR_PASSWORD'"
)


@pytest.fixture
def found(tmp_path: Path) -> Discovery:
    """One target of each source."""
    files = {
        "a/pyproject.toml": DOCKER_HUB_PYPROJECT,
        "b/pyproject.toml": ARTIFACT_REGISTRY_PYPROJECT,
        "c/pyproject.toml": ELASTIC_PYPROJECT,
        "d/pyproject.toml": table("public.ecr.aws", "$AWS_ECR_PUBLIC_PASSWORD"),
        "e/pyproject.toml": table("gcr.io", "$GOOGLE_AR_TOKEN", "oauth2accesstoken"),
        "f/app.py": app(f'{{"ghcr.io": {login(chr(34) + "$GHCR_TOKEN" + chr(34), "me")}}}'),
    }
    return discover(project(tmp_path / "project", files))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to write; its folder is not there yet."""
    return tmp_path / "config" / "refresher.toml"


def test_what_is_written_loads_once_the_variables_are_set(found: Discovery, path: Path) -> None:
    """And says exactly what was found."""
    write(path, found)
    needed = variables(found.targets)
    assert needed == ["DOCKERHUB_TOKEN", "GOOGLE_AR_JSON_BASE64", "GHCR_TOKEN"]
    config = load(path, {**ENVIRON, **dict.fromkeys(needed, "value")})
    names = ["hub", "gar", "ecr", "ecr-public", "gar-token", "ghcr-token"]
    assert list(config.targets) == names
    assert tomllib.loads(path.read_text())["targets"] == found.tables
    with pytest.raises(ConfigError, match="GHCR_TOKEN is not set"):
        load(path, ENVIRON)


def test_comments_tell_what_each_target_is_for(found: Discovery, path: Path) -> None:
    """Where it is used, and where its credentials come from."""
    write(path, found)
    text = path.read_text()
    named = " ".join(text.replace("#", "").split())
    assert "FAL_KEY, DOCKERHUB_TOKEN, GOOGLE_AR_JSON_BASE64, GHCR_TOKEN" in named
    assert "# Amazon ECR account 123456789012, region us-east-1; used by" in text
    assert "#   my-server (c/pyproject.toml:9)" in text
    assert "boto3's default chain" in text
    assert not [line for line in text.splitlines() if line.startswith("# ") and len(line) > 80]
    assert "GOOGLE_APPLICATION_CREDENTIALS" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_file_that_is_there_is_left_alone(found: Discovery, path: Path) -> None:
    """The way out is said, and nothing lies about."""
    path.parent.mkdir()
    path.write_bytes(MINE)
    with pytest.raises(RefresherError, match="is there already; add what is missing with --merge"):
        write(path, found)
    assert path.read_bytes() == MINE
    assert list(path.parent.iterdir()) == [path]


def test_force_replaces_it_with_its_permissions(found: Discovery, path: Path) -> None:
    """Through a link as well, which stays one."""
    path.parent.mkdir()
    real = path.parent / "real.toml"
    real.write_bytes(MINE)
    real.chmod(0o640)
    path.symlink_to(real)
    write(path, found, force=True)
    assert path.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert tomllib.loads(real.read_text())["targets"] == found.tables


def test_a_new_file_can_be_read_by_the_daemons_user(found: Discovery, path: Path) -> None:
    """As any file that a person makes: there is no secret in it."""
    write(path, found)
    beside = path.parent / "beside"
    beside.touch()
    assert path.stat().st_mode == beside.stat().st_mode


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_merge_adds_and_keeps_every_byte(found: Discovery, path: Path, end: bytes) -> None:
    """What the file writes already is not missing, under whatever name."""
    path.parent.mkdir()
    before = MINE.replace(b"\n", end or b"\n") + end
    path.write_bytes(before)
    done = merge(path, found)
    after = path.read_bytes()
    assert after.startswith(before)
    assert [each.name for each in done.targets] == [each for each in found.tables if each != "ecr"]
    targets = tomllib.loads(after.decode())["targets"]
    assert targets.keys() == {"mine", *found.tables} - {"ecr"}
    if end == b"\r\n":
        assert after.count(b"\r\n") == after.count(b"\n")


def test_merge_twice_is_merge_once(found: Discovery, path: Path) -> None:
    """Nothing is missing then, and the file is not touched."""
    assert merge(path, found).targets == found.targets
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert merge(path, found).targets == ()
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("targets = {}\n", "an inline table takes no more"),
        ("[targets\n", "not TOML"),
    ],
)
def test_merge_into_what_takes_no_more_changes_nothing(
    found: Discovery, path: Path, text: str, problem: str
) -> None:
    """A file is either better afterwards or as it was."""
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        merge(path, found)
    assert path.read_text() == text


def test_where_nothing_can_be_written_is_said(found: Discovery, tmp_path: Path) -> None:
    """One line with the reason of the system."""
    (tmp_path / "file").touch()
    with pytest.raises(RefresherError, match=r"refresher.toml cannot be written: "):
        write(tmp_path / "file" / "refresher.toml", found)


def test_what_a_project_is_called_cannot_end_a_comment(tmp_path: Path, path: Path) -> None:
    """A line break in a name would let it write any key."""
    pyproject = table(ECR, "$AWS_ECR_PASSWORD", name='"x\\n[daemon]\\nworkers = 64"')
    write(path, discover(project(tmp_path / "p", {"pyproject.toml": pyproject})))
    assert tomllib.loads(path.read_text()).keys() == {"fal", "targets"}
    assert HUB not in path.read_text()
