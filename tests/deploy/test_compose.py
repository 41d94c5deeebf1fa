"""config/compose.yaml: valid, whole, and its refresher started as it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from refresher.daemon import STOP_SECONDS
from refresher.sandbox.fal import SANDBOX_KEY
from tests.deploy.container import Container, Mount, require_namespaces, started, stopped
from tests.deploy.inside import CREDENTIALS, Inside, wait_until_ready
from tests.peers import ROOT, free_port, require, running, wait_for_port
from tests.postgres import Cluster
from tests.world import PATIENCE, wait_for

CONFIG = ROOT / "config"
FILE = CONFIG / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: What the file says must be set.
SET = {
    "FAL_KEY": SANDBOX_KEY.reveal(),
    "POSTGRES_PASSWORD": "hunter2",
    "REFRESHER_API_TOKEN": "open-sesame",
}


def mounts(service: str) -> dict[str, str]:
    """Path in the container to file of this repository, or to the name of a volume."""
    pairs = (volume.removesuffix(":ro").split(":") for volume in SERVICES[service]["volumes"])
    return {there: here for here, there in pairs}


def files(service: str) -> dict[str, Path]:
    """Those that are files of this repository."""
    return {
        there: CONFIG / here for there, here in mounts(service).items() if here.startswith("./")
    }


def filled(value: str) -> str:
    """A value with its variables put in; one that may be missing is refused."""
    found = re.sub(r"\$\{(\w+):\?[^}]+\}", lambda name: SET[name[1]], value)
    assert "$" not in found
    return found


# --- as a file ---------------------------------------------------------------------------------


def test_it_is_valid() -> None:
    """By the schema of the Compose specification, which is not empty."""
    check = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema"]
    schema = "vendor.compose-spec"
    done = subprocess.run([*check, schema, FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    wrong = FILE.read_text().replace("    read_only: true", "    read_only: 7")
    done = subprocess.run(
        [*check, schema, "--default-filetype", "yaml", "-"],
        input=wrong, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "read_only" in done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_what_it_mounts_is_there(service: str) -> None:
    """Files of this repository, read-only; the rest are volumes that it declares."""
    for there, here in files(service).items():
        assert here.is_file(), there
        assert f"{mounts(service)[there]}:{there}:ro" in SERVICES[service]["volumes"]
    named = set(mounts(service).values()) - {
        f"./{p.relative_to(CONFIG)}" for p in files(service).values()
    }
    assert named <= set(COMPOSE["volumes"])


def test_nothing_is_open_to_others() -> None:
    """Each port is for this machine alone, and no password stands in the file."""
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
    text = FILE.read_text()
    assert set(re.findall(r"\$\{(\w+)", text)) == set(SET)


def test_it_is_built_from_our_dockerfile() -> None:
    """And stopped and bounded as everywhere."""
    ours = SERVICES["refresher"]
    assert (CONFIG / ours["build"]["context"] / "Dockerfile").resolve() == ROOT / "Dockerfile"
    assert int(ours["stop_grace_period"].removesuffix("s")) > STOP_SECONDS + 5
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]


# --- Prometheus, Alertmanager, Grafana ---------------------------------------------------------


def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    """As they are mounted; they are those of config/prometheus, with other addresses."""
    for there, here in files("prometheus").items():
        (tmp_path / Path(there).name).write_text(here.read_text())
    done = subprocess.run(
        [require("promtool"), "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (CONFIG / "prometheus" / "prometheus.yaml").read_text()
    for address, name in (("9478", "refresher"), ("9093", "alertmanager")):
        text = text.replace(f"127.0.0.1:{address}", f"{name}:{address}")
    assert yaml.safe_load(text) == yaml.safe_load((tmp_path / "prometheus.yml").read_text())


def test_alertmanager_takes_its_file() -> None:
    """The one that is tested with a real Alertmanager."""
    (here,) = files("alertmanager").values()
    done = subprocess.run(
        [require("amtool"), "check-config", here], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_grafana_gets_our_dashboard() -> None:
    """From the folder that the provider reads, over the one source of data that there is."""
    by_name = {here.name: there for there, here in files("grafana").items()}
    (provider,) = yaml.safe_load((CONFIG / "compose" / "grafana-dashboards.yaml").read_text())[
        "providers"
    ]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert by_name["refresher.json"] == home == f"{provider['options']['path']}/refresher.json"
    (source,) = yaml.safe_load((CONFIG / "compose" / "grafana-datasources.yaml").read_text())[
        "datasources"
    ]
    dashboard = json.loads((CONFIG / "grafana" / "refresher.json").read_text())
    (variable,) = (v for v in dashboard["templating"]["list"] if v["type"] == "datasource")
    assert variable["query"] == source["type"]
    assert source["url"] == "http://prometheus:9090"
    assert all("/provisioning/" in by_name[name] for name in by_name if name.startswith("grafana-"))


# --- started -----------------------------------------------------------------------------------


def test_its_refresher_shares_a_database_and_is_scraped(cluster: Cluster, tmp_path: Path) -> None:
    """A real PostgreSQL, a real Prometheus, and the container with what the file says."""
    require_namespaces()
    ours = SERVICES["refresher"]
    port, scraper = free_port(), free_port()
    with cluster.running(port), Inside() as world:
        psql = [str(cluster.programs / "psql"), "-h", "127.0.0.1", "-p", str(port), "-U"]
        create = [*psql, "refresher", "postgres", "-c", "CREATE DATABASE refresher"]
        subprocess.run(create, check=True, capture_output=True)
        (tmp_path / "ca.pem").write_text(world.credentials["ca.pem"])
        toml = tmp_path / "refresher.toml"
        toml.write_text(
            world.adapted(files("refresher")["/etc/refresher/refresher.toml"].read_text())
        )
        environ = {name: filled(value) for name, value in ours["environment"].items() if value}
        environ["DATABASE_URL"] = environ["DATABASE_URL"].replace(
            "@postgres/", f"@127.0.0.1:{port}/"
        )
        container = Container(
            command=["refresher", "run"],
            environ={**world.leading_in, **environ, **_of_the_image()},
            mounts=[
                Mount("/etc/refresher/refresher.toml", toml),
                Mount(f"{CREDENTIALS}/ca.pem", tmp_path / "ca.pem"),
                Mount("/var/lib/refresher"),
            ],
            user=65532,
            group=65532,
        )
        log = tmp_path / "container" / "log"
        with started(container, tmp_path / "container") as process:
            wait_until_ready(f"{world.url}/readyz", process, log)
            wait_for(lambda: world.secret is not None, "a publish")
            rows = [*psql, "refresher", "refresher", "-Atc", "SELECT name FROM targets"]
            _scraped(world, tmp_path, scraper)
            told = subprocess.run(rows, capture_output=True, text=True, check=False)
            assert stopped(process, PATIENCE)[0] == 0
            assert told.stdout == "ecr\n", told.stderr


def _of_the_image() -> dict[str, str]:
    """The variables that the Dockerfile sets, but for PATH."""
    text = (ROOT / "Dockerfile").read_text()
    return dict(re.findall(r"(\w+)=(/var/lib/refresher)\b", text))


def _scraped(world: Inside, folder: Path, port: int) -> None:
    """Prometheus on the mounted files, at other addresses, sees the daemon and fires nothing."""
    for there, here in files("prometheus").items():
        text = here.read_text().replace("refresher:9478", f"127.0.0.1:{world.port}")
        (folder / Path(there).name).write_text(text.replace("15s", "1s"))
    command = [
        require("prometheus"), f"--config.file={folder}/prometheus.yml",
        f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/tsdb",
    ]  # fmt: skip
    with running(command, folder / "prometheus.log"):
        wait_for_port(port)
        url = f"http://127.0.0.1:{port}/api/v1/query"
        query = {"query": 'refresher_credential_valid{job="refresher"}'}
        wait_for(lambda: httpx.get(url, params=query).json()["data"]["result"], "a scrape")
