"""A real Prometheus scrapes a real daemon, and a real Alertmanager tells people.

All three run on what `config/prometheus/` ships. So that no test waits for minutes, the copy that
they run on differs in ports and in time alone: where the rules say `for: 5m`, the copy says
`for: 5s`, and Prometheus looks once a second. Expressions and thresholds are the shipped ones.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from refresher.sandbox.world import World
from tests.peers import ROOT, free_port, require, running, wait_for_port
from tests.test_dashboard import expressions
from tests.test_main_job import Running, daemon, until

SHIPPED = ROOT / "config" / "prometheus"

#: Queries of the dashboard that find nothing in a healthy fleet whose registry tells no limit.
EMPTY = ("refresher_failures_total", "refresher_last_failure", "refresher_registry_pulls")

Alert = dict[str, Any]


@dataclass
class Inbox:
    """What Alertmanager sent to whom: the receivers `people` and `on-call`."""

    port: int
    received: list[tuple[str, Alert]] = field(default_factory=list)

    def alert(self, name: str, status: str, receiver: str) -> Alert | None:
        """The newest notification of an alert, where it has that status and went there."""
        told = [
            alert
            for to, alert in self.received
            if to == receiver and alert["labels"]["alertname"] == name
        ]
        return told[-1] if told and told[-1]["status"] == status else None


@contextmanager
def inbox() -> Iterator[Inbox]:
    """An HTTP server for Alertmanager's webhooks."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            box.received += [(self.path.removeprefix("/"), alert) for alert in body["alerts"]]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    box = Inbox(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield box
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Watched:
    """A daemon, what watches it, and who is told."""

    world: World
    run: Running
    inbox: Inbox
    prometheus: str
    alertmanager: str

    def query(self, expression: str) -> list[Alert]:
        """An instant vector; an error of PromQL is raised."""
        url = f"{self.prometheus}/api/v1/query"
        answer = httpx.get(url, params={"query": expression}).raise_for_status().json()
        found: list[Alert] = answer["data"]["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.prometheus}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def told(self, name: str, status: str, receiver: str, seconds: float = 30) -> Alert:
        """The notification, once it came."""
        what = f"{name} {status} at {receiver}"
        until(lambda: self.inbox.alert(name, status, receiver) is not None, what, seconds)
        alert = self.inbox.alert(name, status, receiver)
        assert alert is not None
        return alert

    def standing(self) -> set[str]:
        """Names of the alerts that Alertmanager knows of and does not suppress."""
        alerts = httpx.get(f"{self.alertmanager}/api/v2/alerts?inhibited=false").json()
        return {alert["labels"]["alertname"] for alert in alerts}


def copied(name: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """A shipped file with changes, each of which must find its place."""
    text = (SHIPPED / name).read_text()
    for pattern, replacement in changes:
        text, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert found, f"{name} has no {pattern}"
    path = folder / name
    path.write_text(text)
    return path


@contextmanager
def alertmanager(folder: Path, inbox: Inbox) -> Iterator[int]:
    """A real one on the shipped example, which waits for nothing; its port."""
    port = free_port()
    config = copied(
        "alertmanager.yaml",
        folder,
        (r"127\.0\.0\.1:9099", f"127.0.0.1:{inbox.port}"),
        (r"group_wait: 30s", "group_wait: 0s"),
        (r"group_interval: 5m", "group_interval: 1s"),
    )
    command = [
        require("prometheus-alertmanager"),
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with running(command, folder / "alertmanager.log"):
        wait_for_port(port, 30)
        yield port


@contextmanager
def prometheus(folder: Path, refresher: str, alertmanager: int) -> Iterator[str]:
    """A real one on the shipped example and rules, which looks once a second; its URL."""
    port = free_port()
    copied("rules.yaml", folder, (r"^( +for: \d+)m$", r"\1s"))
    config = copied(
        "prometheus.yaml",
        folder,
        (r"127\.0\.0\.1:9093", f"127.0.0.1:{alertmanager}"),
        (r"127\.0\.0\.1:9478", refresher.removeprefix("http://")),
        (r"_interval: 15s", "_interval: 1s"),
    )
    command = [
        require("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, folder / "prometheus.log"):
        wait_for_port(port, 30)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """All of it, with a credential that Prometheus has seen to be valid."""
    with ExitStack() as stack:
        world = stack.enter_context(World(images={"team/app": ["latest"]}))

        def config(listen: str) -> Path:
            path = tmp_path / "refresher.toml"
            world.write_config(path, listen=listen, policy={"reverify_interval": "2s"})
            path.write_text(f'{path.read_text()}image = "team/app:latest"\n')
            return path

        run = stack.enter_context(daemon(world, config, tmp_path / "log"))
        box = stack.enter_context(inbox())
        told = stack.enter_context(alertmanager(tmp_path, box))
        url = stack.enter_context(prometheus(tmp_path, run.url, told))
        watched = Watched(world, run, box, url, f"http://127.0.0.1:{told}")
        until(lambda: _answered(watched), "the first scrape", 30)
        # Prometheus first scrapes 5 s after its start, which passes for 5 minutes here.
        until(lambda: not watched.standing(), "the end of RefresherAbsent")
        box.received.clear()
        yield watched


def _answered(watched: Watched) -> bool:
    try:
        return bool(watched.query("refresher_credential_valid == 1"))
    except httpx.HTTPError:  # it starts by answering 503
        return False


def test_a_healthy_fleet_is_quiet_and_every_query_answers(watched: Watched) -> None:
    """No rule fails on real series or fires, and no panel of the dashboard is empty."""
    until(lambda: all(rule["health"] != "unknown" for rule in watched.rules()), "evaluation")
    scrapes = "count_over_time(refresher_build_info[20s])"
    until(lambda: int(watched.query(scrapes)[0]["value"][1]) > 6, "more than `for: 5s`")
    assert [rule for rule in watched.rules() if rule["health"] != "ok"] == []
    assert watched.standing() == set()
    assert [alert for _, alert in watched.inbox.received if alert["status"] == "firing"] == []
    for expression in expressions():
        assert watched.query(expression) or any(name in expression for name in EMPTY), expression


def test_an_outage_at_aws_is_told_with_its_cause_and_its_end(watched: Watched) -> None:
    """Three failures in a row, for long enough; a refresh that succeeds resolves it."""
    watched.world.aws.error("ServiceUnavailable", 503, "down")
    for _ in range(3):
        assert watched.run.refresh()["outcome"] == "failed"
    alert = watched.told("RefresherRefreshFailing", "firing", "people", 40)
    assert alert["labels"] == {
        "alertname": "RefresherRefreshFailing",
        "severity": "warning",
        "job": "refresher",
        "target": "ecr",
    }
    assert "Last failure: source/unavailable." in alert["annotations"]["description"]

    watched.world.aws.mend()
    assert watched.run.refresh()["outcome"] == "refreshed"
    watched.told("RefresherRefreshFailing", "resolved", "people")
    assert watched.inbox.alert("RefresherRefreshFailing", "firing", "on-call") is None


def test_a_refusal_by_the_registry_wakes_somebody(watched: Watched) -> None:
    """What stands is revoked, and what is issued anew dies at once; then it works again."""
    aws = watched.world.aws
    aws.token_life = timedelta()
    aws.expires_at_override = datetime.now(UTC) + timedelta(hours=12)
    aws.passwords.revoke_all()
    alert = watched.told("RefresherCredentialRefused", "firing", "on-call")
    assert alert["labels"] == {
        "alertname": "RefresherCredentialRefused",
        "severity": "critical",
        "job": "refresher",
        "target": "ecr",
    }
    assert "Last failure: verify/unauthorized." in alert["annotations"]["description"]
    # The registry ended it early, so that it counts as expired, too; one alert says so.
    assert "RefresherCredentialExpired" not in watched.standing()

    aws.token_life, aws.expires_at_override = timedelta(hours=12), None
    assert watched.run.refresh()["outcome"] == "refreshed"
    watched.told("RefresherCredentialRefused", "resolved", "on-call")


def test_a_daemon_that_is_gone_is_missed(watched: Watched) -> None:
    """Its series end with it, and the absence of all of them is an alert."""
    watched.run.process.terminate()
    watched.run.process.wait(12)
    alert = watched.told("RefresherAbsent", "firing", "on-call")
    assert alert["labels"] == {"alertname": "RefresherAbsent", "severity": "critical"}
    assert watched.standing() == {"RefresherAbsent"}
