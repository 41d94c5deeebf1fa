"""What README and docs say, held against the program: commands are run, links followed."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from jsonschema import Draft202012Validator

from refresher import config
from refresher.cli.app import root
from refresher.cli.exits import Exit
from refresher.discovery import discover
from refresher.privileges import needed
from refresher.sandbox.world import STATIC_SECRETS
from tests.pages import PAGES, Block, blocks, commands, links, sections
from tests.peers import ROOT, require
from tests.world import World, wait_for

README = (ROOT / "README.md").read_text("utf-8")
WORKFLOW = ROOT / "config" / "github" / "refresher.yml"
#: Targets of the stand-ins by the names that the pages use.
NAMES = {"dockerhub": "hub", "oci": "ghcr"}

#: What a page says beside `fal deploy` cannot be held against anything here; the gate can.
FAL = """\
#!/bin/sh
[ "$1" = deploy ] || exit 64
echo "$2" >> deployed
"""


# --- blocks are run ----------------------------------------------------------------------------


class Desk(World):
    """A world in which somebody types what a page says."""

    def __enter__(self) -> Desk:
        super().__enter__()
        text = self.config_toml(kinds=STATIC_SECRETS, listen=f"127.0.0.1:{self.port}")
        for kind, name in NAMES.items():
            text = text.replace(f"[targets.{kind}]", f"[targets.{name}]")
        self.config.write_text(text)
        self.folder.mkdir()
        fal = self.directory / "bin" / "fal"
        fal.parent.mkdir()
        fal.write_text(FAL)
        fal.chmod(0o755)
        own = Path(sys.executable).parent
        self.extra["PATH"] = f"{fal.parent}:{own}:{os.environ['PATH']}"
        return self

    @property
    def folder(self) -> Path:
        """The working directory."""
        return self.directory / "work"

    @property
    def deployed(self) -> list[str]:
        """The apps for which `fal deploy` was called."""
        log = self.folder / "deployed"
        return log.read_text().split() if log.exists() else []

    def type(self, text: str) -> subprocess.CompletedProcess[str]:
        """What became of some lines; the port alone is another than the usual one."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text.replace(":9478", f":{self.port}")],
            env=self.process_environ(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A daemon that has seen to every target."""
        with self.daemon():
            wait_for(lambda: all(t["valid"] for t in self.json("status")["targets"]), "all good")
            yield


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A desk with nothing on it."""
    with Desk() as desk:
        yield desk


RUNNABLE = [page for page in PAGES if any(b.page == page and not b.why_not for b in blocks("sh"))]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_what_a_page_says_can_be_typed(desk: Desk, page: Path) -> None:
    """Every block, in its order; a daemon that one of them starts runs to the end of the page."""
    with ExitStack() as running:
        for block in [each for each in blocks("sh", "toml", "json") if each.page == page]:
            if block.file is not None:
                (desk.folder / block.file).write_text(block.text)
            elif block.language == "sh" and block.why_not is None:
                _type(desk, block, running)


def _type(desk: Desk, block: Block, running: ExitStack) -> None:
    if "curl" in block.text:
        require("curl")
    lines = block.text.splitlines(keepends=True)
    starts = lines[-1].startswith("refresher run")
    done = desk.type("".join(lines[:-1] if starts else lines))
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    if starts:
        running.enter_context(desk.kept())


def test_a_block_that_is_not_run_says_why() -> None:
    """In words, in a comment of one of the two kinds."""
    assert len(blocks("sh")) > 20
    for block in blocks("sh", "toml", "json"):
        assert re.fullmatch(r"(not run: \w+( .+){2,}|(file|part of): [\w./-]+|)", block.comment), (
            str(block)
        )
        assert block.language == "sh" or block.why_not is None, str(block)


def test_the_gate_stops_a_deploy(desk: Desk) -> None:
    """Before anything is known, and where it ends too soon; else it lets it through."""
    gates = [b.text for b in blocks("sh") if "fal deploy" in b.text and b.why_not is None]
    check, once = sorted(gates)
    assert desk.type(check).returncode == Exit.UNKNOWN
    assert desk.deployed == []
    assert desk.type(once).returncode == Exit.GOOD
    assert desk.type(check).returncode == Exit.GOOD
    assert desk.deployed == ["my-server"] * 2
    assert desk.type(check.replace("2h", "1d")).returncode == Exit.FAILED
    desk.aws.error("AccessDeniedException", 400, "User is not authorized")
    assert desk.type(once.replace("4h", "1s")).returncode == Exit.FAILED
    assert desk.deployed == ["my-server"] * 2


def test_the_workflow_of_github_runs(desk: Desk) -> None:
    """Its own lines, but those that install something; with the inputs that its comment names."""
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    assert workflow[True].keys() == {"schedule", "push", "workflow_dispatch"}  # YAML reads `on` so
    assert workflow["permissions"] == {"contents": "read", "id-token": "write"}
    steps = [step for step in workflow["jobs"]["refresh"]["steps"] if "run" in step]
    install, *others = steps
    assert install["name"] == "Install"
    for step in others:
        done = desk.type(step["run"])
        assert done.returncode == 0, done.stderr
        assert step["env"] == {"FAL_KEY": "${{ secrets.FAL_KEY }}"}
    assert desk.deployed == ["my-server"]


def test_the_steps_for_github_run(desk: Desk) -> None:
    """Those of the page; what they install is on the desk already."""
    (block,) = [block for block in blocks("yaml") if block.page.name == "deploy-gate.md"]
    install, deploy = [step for step in yaml.safe_load(block.text) if "run" in step]
    assert install["run"].startswith("pipx install")
    assert deploy["env"] == {"FAL_KEY": "${{ secrets.FAL_KEY }}"}
    done = desk.type(deploy["run"])
    assert done.returncode == 0, done.stderr
    assert desk.deployed == ["my-server"]
    desk.aws.error("AccessDeniedException", 400, "User is not authorized")
    failed = desk.type(deploy["run"].replace("4h", "1s"))
    assert failed.returncode == Exit.FAILED
    assert desk.deployed == ["my-server"]


# --- other blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_a_good_configuration_or_project(block: Block, tmp_path: Path) -> None:
    """The one is loaded, in the other something is found that can be kept."""
    document = tomllib.loads(block.text)
    if "tool" not in document:
        environ = {"HOME": str(tmp_path)}
        assert config.parse(block.text, str(block), environ, follow="nothing").targets
        return
    (tmp_path / "pyproject.toml").write_text(block.text)
    found = discover(tmp_path)
    assert found.targets
    assert not found.unkept
    assert not found.problems


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    """A policy with a comma too many helps nobody."""
    assert json.loads(block.text)["Version"] == "2012-10-17"


def test_the_aws_policy_is_the_one_that_is_printed(tmp_path: Path) -> None:
    """For the registry of that page, and all of its repositories."""
    page = ROOT / "docs" / "howto-ecr.md"
    (policy,) = [b for b in blocks("json") if b.file == "fal-pull.json"]
    (target,) = [b for b in blocks("toml") if b.page == page and "tool" not in b.text]
    text = "".join(line for line in target.text.splitlines(True) if not line.startswith("image"))
    parsed = config.parse(text, "howto", {"HOME": str(tmp_path)}, follow="nothing")
    assert json.loads(policy.text) == needed(parsed, parsed.targets)["aws"][-1]["policy"]


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "command"), list(commands()))
def test_a_command_that_is_named_is_there(place: str, command: str) -> None:
    """With the options that it is given; `…` stands for what is left out."""
    words = shlex.split(re.split(r"[|>&…]|  #", command)[0])[1:]
    present: click.Command = root
    while isinstance(present, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in present.commands, place
        present = present.commands[name]
    known = {option for parameter in present.params for option in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known, place


def test_the_readme_names_every_command() -> None:
    """In its table, by a line each."""
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(?:refresher )?(\w+)", row)}
    assert named == {*root.commands, "schema", "show"}


def test_the_readme_names_every_exit_code() -> None:
    """But the one of Ctrl-C, which is the shell's."""
    (line,) = re.findall(r"Exit codes: (.*)", README)
    codes = [int(code) for code in re.findall(r"\d+", line)]
    assert codes == [code for code in Exit if code is not Exit.INTERRUPTED]


def test_the_readme_names_every_alert() -> None:
    """Each by a link to what to do."""
    rules = yaml.safe_load((ROOT / "config" / "prometheus" / "rules.yaml").read_text("utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    table = README.partition("## Alerts")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \[(\w+)\]\(docs/runbook\.md#(\w+)\) \| .+ \|$", table, re.MULTILINE)
    assert {f"Refresher{name}" for name, _ in rows} == alerts
    assert all(section == f"refresher{name.lower()}" for name, section in rows)


def test_links_lead_somewhere() -> None:
    """To a file that is there, and to a section that it has."""
    for page, target, section in links():
        assert target.exists(), f"{page}: {target}"
        assert not section or section in sections(target), f"{page}: {target}#{section}"


def test_the_index_names_every_page() -> None:
    """One that nobody finds is not there."""
    index = ROOT / "docs" / "README.md"
    linked = {target for page, target, _ in links() if page == "docs/README.md"}
    assert {page for page in PAGES if page.parent == index.parent} - linked == {index}


def test_a_test_that_is_named_is_there() -> None:
    """A promise whose proof was renamed away has none."""
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8") or not test, test


# --- generated pages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "arguments", "page"),
    [
        ("generate_commands.py", "", "commands.md"),
        ("generate_configuration.py", "", "configuration.md"),
        ("generate_json.py", "", "json.md"),
        ("generate_json.py", "--schema", "json.schema.json"),
    ],
)
def test_a_generated_page_is_current(script: str, arguments: str, page: str) -> None:
    """Whoever changes the program writes it anew."""
    docs = ROOT / "docs"
    made = subprocess.run(
        [sys.executable, str(docs / script), *arguments.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    hint = f"run: python docs/{script} {arguments} > docs/{page}"
    assert made == (docs / page).read_text("utf-8"), hint


def test_the_configuration_page_names_every_key() -> None:
    """As the schema does, which the program itself prints."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    for table in config.schema()["$defs"].values():
        for key, value in table["properties"].items():
            named = f"| `{key}` |" in page or "$ref" in value or key in ("source", "accounts")
            assert named, key


# --- JSON --------------------------------------------------------------------------------------


def test_every_command_with_json_is_described() -> None:
    """`config show` by the schema of the configuration."""
    described = _shapes()["COMMANDS"].keys() | {"config show"}
    assert {name for name, command in _all(root) if _prints_json(command)} == described


def _all(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{before}{name}", command
        if isinstance(command, click.Group):
            yield from _all(command, f"{name} ")


def _prints_json(command: click.Command) -> bool:
    return any("--output" in parameter.opts for parameter in command.params)


def _shapes() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate_json.py"))


def test_json_is_as_described(desk: Desk) -> None:
    """What each command prints has the keys of its schema and no others."""
    schema = json.loads((ROOT / "docs" / "json.schema.json").read_text("utf-8"))
    strict = _strict(schema)
    project = desk.folder / "pyproject.toml"
    project.write_text("".join(b.text for b in blocks("toml") if b.file == project.name))
    arguments = {"discover": ["."], "notify": ["--test"]} | {
        name: ["ecr"] for name in ("pause", "resume", "refresh", "policy")
    }
    url = {"NOTIFY_URL": "json://127.0.0.1:1/"}
    desk.extra |= url
    desk.config.write_text(
        desk.config.read_text().replace("[daemon]", '[daemon]\nnotify = [{ env = "NOTIFY_URL" }]')
    )
    once = _printed(desk, "once", [])
    assert len(once["attempts"]) == 4
    documents = {"once": once}
    assert desk.type("refresher once --max-age 4h --output json").returncode == 0
    with desk.kept():
        for name in schema["$defs"].keys() & dict(_all(root)).keys() - {"once"}:
            documents[name] = _printed(desk, name, arguments.get(name, []))
    for name, document in documents.items():
        Draft202012Validator({**strict, "$ref": f"#/$defs/{name}"}).validate(document)


def _printed(desk: Desk, name: str, arguments: list[str]) -> Any:
    done = desk.type(shlex.join(["refresher", *name.split(), *arguments, "--output", "json"]))
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def _strict(schema: Any) -> Any:
    """The schema with no key allowed that it does not name."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {key: _strict(value) for key, value in schema.items()} | closed
