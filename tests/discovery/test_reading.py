"""Any folder can be read, fast, and whatever cannot be read is said."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from refresher.discovery import discover
from refresher.errors import ConfigError
from tests.discovery.projects import ECR, app, login, project, table

#: One app with one private registry.
GOOD = app(f'{{"{ECR}": {login(chr(34) + "$AWS_ECR_PASSWORD" + chr(34))}}}')


def test_five_thousand_files_take_less_than_three_seconds(tmp_path: Path) -> None:
    """Most of them speak of no registry, and some of them are large."""
    filler = "def function(argument):\n    return argument + 1\n" * 60
    for number in range(5000):
        folder = tmp_path / f"package{number % 50}"
        folder.mkdir(exist_ok=True)
        (folder / f"module{number}.py").write_text(GOOD if number % 500 == 0 else filler)
    begin = time.process_time()  # of this process alone: the machine may be busy
    found = discover(tmp_path)
    assert time.process_time() - begin < 3
    assert len(found.findings) == 10
    assert list(found.tables) == ["ecr"]


def test_links_that_lead_round_in_circles_are_no_trap(tmp_path: Path) -> None:
    """A folder that is a link is left out, a file that is a link to itself is said."""
    project(tmp_path, {"src/app.py": GOOD})
    (tmp_path / "src" / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.py").symlink_to(tmp_path / "itself.py")
    (tmp_path / "nowhere.py").symlink_to(tmp_path / "nothing")
    found = discover(tmp_path)
    assert [str(finding.place) for finding in found.findings] == ["src/app.py:4"]
    assert list(map(str, found.problems)) == [
        f"itself.py: not read: {os.strerror(40)}",
        "nowhere.py: not read: No such file or directory",
    ]


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    """Reading a pipe would never end; a folder may have any name."""
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    os.mkfifo(tmp_path / "Dockerfile")
    pyproject = table(ECR, "$AWS_ECR_PASSWORD", image='dockerfile = "Dockerfile"')
    found = discover(project(tmp_path, {"pyproject.toml": pyproject}))
    assert list(map(str, found.problems)) == ["pipe.py: not read: it is no regular file"]
    assert "image" not in found.tables["ecr"]


@contextmanager
def nobody() -> Iterator[None]:
    """Root may read everything, so it is somebody else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_not_allowed_is_said() -> None:
    """Files and folders alike."""
    with TemporaryDirectory() as name:  # pytest's own folders are for root alone
        folder = project(Path(name), {"a.py": GOOD, "b/b.py": GOOD})
        folder.chmod(0o755)
        (folder / "a.py").chmod(0)
        (folder / "b").chmod(0)
        with nobody():
            problems = discover(folder).problems
        (folder / "b").chmod(0o700)
    assert [str(problem) for problem in problems] == [
        "a.py: not read: Permission denied",
        "b: not read: Permission denied",
    ]


def test_a_single_file_is_a_project_as_well(tmp_path: Path) -> None:
    """What lies beside it is not looked at."""
    project(tmp_path, {"app.py": GOOD, "other.py": GOOD})
    assert [finding.file for finding in discover(tmp_path / "app.py").findings] == ["app.py"]


@pytest.mark.parametrize("name", ["nothing", "loop"])
def test_a_project_that_is_not_there_is_an_error(tmp_path: Path, name: str) -> None:
    """One line, as every problem of a configuration."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConfigError, match=f"{name}: no such fal project"):
        discover(tmp_path / name)


def test_every_file_that_was_read_is_told(tmp_path: Path) -> None:
    """Whoever watches a project watches what its files name as well, there or not."""
    images = {"a": "Dockerfile.gpu", "b": "nowhere/Dockerfile"}
    tables = "".join(
        table(ECR, "$AWS_ECR_PASSWORD", image=f'dockerfile = "{file}"', name=app)
        for app, file in images.items()
    )
    maker = GOOD.replace("_str", "").replace("FROM scratch", "python.docker")
    found = discover(project(tmp_path, {"p/pyproject.toml": tables, "p/app.py": maker}) / "p")
    assert {path.relative_to(tmp_path / "p").as_posix() for path in found.read} == {
        *("pyproject.toml", "app.py", "python.docker"),
        *images.values(),
    }
    single = app("REG", before="from conf import REG\nfrom other import nothing\n")
    project(tmp_path, {"q/app.py": single, "q/conf.py": "REG = {}", "q/other.py": ""})
    beside = discover(tmp_path / "q" / "app.py").read
    assert [path.name for path in beside] == ["app.py", "conf.py"]


def test_nothing_is_imported_and_nothing_is_run(tmp_path: Path) -> None:
    """A project is somebody else's code."""
    trap = 'raise SystemExit("it was run")\n'
    found = discover(
        project(tmp_path, {"app.py": f"{trap}from conf import X\n{GOOD}", "conf.py": trap})
    )
    assert len(found.findings) == 1
    assert not list(tmp_path.rglob("__pycache__"))


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    """Apps, user names and files may be called anything."""
    pyproject = table(ECR, "$A", "\\u001b[2J", name='"\\u001b]0;x"')
    (finding,) = discover(project(tmp_path / "p", {"\x1b[31m/pyproject.toml": pyproject})).findings
    assert (finding.app, finding.username) == ("?]0;x", "?[2J")
    assert finding.file == "?[31m/pyproject.toml"
