"""docs/deploy.md: what it shows is a part of the tested files, word for word."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import KUBECTL, built, only, pod
from tests.pages import Block, blocks
from tests.peers import ROOT

PAGE = ROOT / "docs" / "deploy.md"
SHOWN = [block for block in blocks("sh", "yaml", "toml", "ini") if block.page == PAGE]
COMMANDS = [block for block in SHOWN if block.language == "sh"]
PARTS = [block for block in SHOWN if block.language != "sh"]
#: Lines of a page, of a home at most.
A_PAGE = 70


def source(block: Block, prefix: str) -> str:
    """The text of the file that a comment names at its end."""
    found = re.search(rf"{prefix} ([\w./-]+)$", block.comment)
    assert found, f"{block} names no file"
    return (ROOT / found[1]).read_text("utf-8")


@pytest.mark.parametrize("block", PARTS, ids=str)
def test_each_manifest_is_a_part_of_its_file(block: Block) -> None:
    """Copied, with nothing changed and nothing left out between."""
    assert block.text in source(block, "part of:")


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_each_command_is_in_the_file_that_it_is_about(block: Block) -> None:
    """Its file tells it, too; what make does is tested by what make says."""
    text = source(block, "From")
    for line in block.text.splitlines():
        if line.startswith("make "):
            assert f"\n{line.removeprefix('make ')}:" in text
        else:
            assert re.search(rf"^[# ]+{re.escape(line)}$", text, re.MULTILINE), line


def test_each_home_takes_less_than_a_page() -> None:
    """Counted in lines."""
    homes = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    assert len(homes) == 8
    for home in homes:
        assert home.count("\n") < A_PAGE, home.splitlines()[0]


def test_the_secret_holds_what_the_configuration_names(tmp_path: Path) -> None:
    """By the very command, which a cluster is not asked for."""
    (command,) = {
        line
        for block in COMMANDS
        for line in block.text.splitlines()
        if "create secret" in line and "namespace" in line
    }
    for name in ("fal-key", "api-token"):
        (tmp_path / name).write_text("x")
    done = subprocess.run(
        [KUBECTL, *command.split()[1:], "--dry-run=client", "--output=yaml"],
        cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = yaml.safe_load(done.stdout)
    objects = built(ROOT / "config" / "kubernetes" / "example")
    text = only(objects, "ConfigMap")["data"]["refresher.toml"]
    assert set(made["data"]) == set(re.findall(r'file = "/run/secrets/refresher/([\w-]+)"', text))
    volumes = pod(only(objects, "Deployment"))["volumes"]
    assert made["metadata"]["name"] in [v["secret"]["secretName"] for v in volumes if "secret" in v]
    assert made["metadata"]["namespace"] == only(objects, "Deployment")["metadata"]["namespace"]


def test_what_is_installed_is_where_the_unit_looks() -> None:
    """Program, configuration, credential and unit."""
    unit = (ROOT / "config" / "systemd" / "refresher.service").read_text()
    (block,) = (block for block in COMMANDS if "systemctl" in block.text)
    placed = [line.split()[-1] for line in block.text.splitlines() if line.startswith("install")]
    config, credential, service = placed
    assert f"--config {config}\n" in unit
    assert f"LoadCredential=fal-key:{credential}\n" in unit
    assert service.startswith("/etc/systemd/system/")
    assert "ExecStart=/opt/refresher/bin/refresher run" in unit
    for line in block.text.splitlines():
        if line.startswith("install") and "config/" in line:
            assert (ROOT / line.split()[3]).is_file()


def test_every_home_is_on_the_page() -> None:
    """Each folder and file of config/ that is one."""
    text = PAGE.read_text()
    for home in ("compose.yaml", "fal/app.py", "github/refresher.yml", "kubernetes/", "systemd/"):
        assert f"config/{home}" in text
    components = [
        path.parent.name
        for path in (ROOT / "config" / "kubernetes").glob("*/kustomization.yaml")
        if "kind: Component" in path.read_text()
    ]
    assert len(components) > 5
    for component in components:
        assert f"`{component}`" in text or f"../{component}" in text
