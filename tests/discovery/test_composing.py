"""A project and a file that refines it, together one configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from refresher.config import tables
from refresher.discovery import Composed, compose
from refresher.errors import ConfigError
from refresher.references import Reference
from tests.discovery.projects import ECR, project, table

ENVIRON = {"HOME": "/home/u", "FAL_KEY": "id:secret", "DOCKERHUB_TOKEN": "t"}
HUB = "https://index.docker.io/v1/"
TWO = {
    "a/pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", name="a"),
    "b/pyproject.toml": table(HUB, "$DOCKERHUB_TOKEN", "me", name="b"),
}
FILED = f"""
[targets.mine]
source = "ecr"
registry = "{ECR}"
secret = "AWS_ECR_PASSWORD"
"""


def composed(folder: Path, file: str | None = None, **environ: str) -> Composed:
    path = None
    if file is not None:
        path = folder / "refresher.toml"
        path.write_text(file)
    found = project(folder / "p", TWO)
    return compose(found, path, {**ENVIRON, **environ}, follow="environment")


def test_a_project_alone_is_a_configuration(tmp_path: Path) -> None:
    """All but the targets is as if nothing had been written."""
    made = composed(tmp_path)
    assert list(made.config.targets) == ["ecr", "hub"]
    assert made.config.targets["ecr"].environments == ("main",)
    assert made.config.fal.key == Reference(env="FAL_KEY")
    assert made.from_file == ()
    assert made.from_project == {"ecr": "a/pyproject.toml:5", "hub": "b/pyproject.toml:5"}


@pytest.mark.parametrize("more", ["", "enabled = false\n", 'environments = ["staging", "main"]\n'])
def test_a_target_of_the_file_goes_before_the_projects(tmp_path: Path, more: str) -> None:
    """By the secret that it writes, whatever its name, and parked as well."""
    made = composed(tmp_path, FILED + more)
    assert list(made.config.targets) == ["mine", "hub"]
    assert made.from_file == ("mine",)
    assert list(made.from_project) == ["hub"]


@pytest.mark.parametrize(
    "more",
    [
        'environments = ["staging"]\n',
        'account = "b"\n[fal.accounts.b]\nkey = { env = "FAL_KEY" }\n',
    ],
)
def test_a_secret_elsewhere_is_another_secret(tmp_path: Path, more: str) -> None:
    """The project's own one is kept besides."""
    assert list(composed(tmp_path, FILED + more).config.targets) == ["mine", "ecr", "hub"]


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    """Both are kept."""
    file = FILED.replace("mine", "hub").replace("AWS_ECR_PASSWORD", "OTHER")
    assert list(composed(tmp_path, file).config.targets) == ["hub", "ecr", "hub-2"]


def test_the_rest_of_the_file_counts_as_ever(tmp_path: Path) -> None:
    """A file without targets is one, too; its relative paths start at its folder."""
    made = composed(tmp_path, '[daemon]\nworkers = 3\napi_token = { file = "token" }\n')
    assert made.config.daemon.workers == 3
    assert made.config.daemon.api_token == Reference(file=tmp_path / "token")
    assert list(made.config.targets) == ["ecr", "hub"]


def test_problems_name_the_file_and_the_project(tmp_path: Path) -> None:
    """All of them at once."""
    with pytest.raises(ConfigError) as refused:
        composed(tmp_path, "[daemon]\nworkers = 0\n", FAL_KEY="")
    origin = f"{tmp_path / 'refresher.toml'} with fal project {tmp_path / 'p'}: "
    assert all(line.startswith(origin) for line in refused.value.problems)
    assert any("daemon.workers" in line for line in refused.value.problems)
    assert any("FAL_KEY is empty" in line for line in refused.value.problems)


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    """With the target that needs it."""
    with pytest.raises(ConfigError, match=r"targets.hub.password: .* DOCKERHUB_TOKEN is not set"):
        compose(project(tmp_path, TWO), None, {"HOME": "/", "FAL_KEY": "k"}, follow="environment")


def test_targets_that_are_no_table_are_refused_as_ever(tmp_path: Path) -> None:
    """The file is wrong, whatever the project says."""
    with pytest.raises(ConfigError, match="targets: expected a table"):
        composed(tmp_path, "targets = 5\n")


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({"a.py": "pass"}, "no private registry is used"),
        ({"pyproject.toml": table(ECR, "literal")}, "nothing can be kept"),
    ],
)
def test_a_project_with_nothing_to_keep_is_an_error(
    tmp_path: Path, files: dict[str, str], cause: str
) -> None:
    """A daemon without a target would be a silent one."""
    with pytest.raises(ConfigError, match=f"{cause}; `refresher discover .*` tells more"):
        compose(project(tmp_path, files), None, ENVIRON, follow="environment")


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """`tables` of the configuration validates nothing."""
    path = tmp_path / "a.toml"
    path.write_text("anything = 1\n")
    assert tables(path) == {"anything": 1}
