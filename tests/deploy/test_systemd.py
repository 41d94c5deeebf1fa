"""config/systemd: the unit by systemd's own judgement, its protocol, a run within its bounds."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest

from refresher import config
from refresher.clock import ManualClock
from refresher.daemon import STOP_SECONDS, Daemon, Options
from refresher.health import TICK_LIMIT
from tests.deploy.container import Container, Mount, require_namespaces, started, stopped
from tests.deploy.inside import Inside
from tests.peers import ROOT, require
from tests.world import PATIENCE, World, wait_for

FOLDER = ROOT / "config" / "systemd"
UNIT = FOLDER / "refresher.service"
PROGRAM = "/opt/refresher/bin/refresher"
NOBODY = 61184  # the first of the numbers that systemd gives to users of the moment


def setting(name: str) -> list[str]:
    """Every value of a setting of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, without judging how it ends."""
    command = [require("systemd-analyze"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- by systemd's own judgement ----------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """No unknown setting, no bad value; the program alone is where ours is."""
    ours = Path(sys.executable).with_name("refresher")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(ours)))
    done = analyze("verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notifies"))
    assert "notifies" in analyze("verify", unit).stderr


def test_its_exposure_is_as_the_page_says() -> None:
    """Of 10, at which a service may do whatever root may."""
    said = analyze("security", "--offline=yes", UNIT).stdout
    found = re.search(r"exposure level for refresher.service: ([\d.]+)", said)
    assert found
    assert float(found[1]) < 1.5
    assert f"**{found[1]}**" in (ROOT / "docs" / "deploy.md").read_text()


def test_it_is_never_given_up() -> None:
    """However it ends, and however often; and it starts without a network."""
    assert setting("Restart") == ["always"]
    assert setting("StartLimitIntervalSec") == ["0"]
    assert setting("After") == ["network.target"]
    assert setting("Wants") == setting("Requires") == []


def test_its_deadlines_are_longer_than_ours() -> None:
    """To stop, and between two signs of life."""
    (stop,), (watchdog,) = setting("TimeoutStopSec"), setting("WatchdogSec")
    assert int(stop) > STOP_SECONDS + 5
    assert int(watchdog) > TICK_LIMIT


# --- the protocol ------------------------------------------------------------------------------


class Manager:
    """The end of the socket at which systemd listens."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """Everything up to now."""
        while True:
            try:
                self.heard.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_daemon_tells_how_it_is(kind: str, tmp_path: Path) -> None:
    """READY once, when it works; WATCHDOG again and again; STOPPING at its end."""
    name = str(tmp_path / "notify") if kind == "path" else f"@refresher-{os.getpid()}"
    with closing(Manager(name)) as manager, World() as world:
        world.configure()
        world.extra |= {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1500000"}
        with world.daemon() as daemon:
            wait_for(lambda: manager.listen().count("WATCHDOG=1") >= 3, "three signs of life")
            assert manager.heard.count("READY=1") == 1
            assert "STOPPING=1" not in manager.heard
            assert daemon.stop() == 0
        assert manager.listen()[-1] == "STOPPING=1"


def test_without_a_watchdog_there_is_no_sign_of_life(tmp_path: Path) -> None:
    """Or with one that is meant for another process."""
    for extra in ({}, {"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}):
        name = str(tmp_path / f"notify-{len(extra)}")
        with closing(Manager(name)) as manager, World() as world:
            world.configure()
            world.extra |= {"NOTIFY_SOCKET": name, **extra}
            with world.daemon() as daemon:
                wait_for(lambda: manager.listen() == ["READY=1"], "ready")
                assert daemon.stop() == 0
            assert manager.listen() == ["READY=1", "STOPPING=1"]


def test_a_daemon_that_is_stuck_gives_no_sign_of_life(
    clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /livez says it: then systemd starts it anew."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "90000000")
    with closing(Manager(str(tmp_path / "notify"))) as manager, World() as world:
        world.configure()
        environ = world.process_environ()
        daemon = Daemon(lambda: config.load(world.config, environ), Options(), clock)
        daemon._report()
        assert manager.listen() == ["WATCHDOG=1"]  # not ready before its first tick
        daemon._engine.scheduler.tick()
        clock.advance(timedelta(seconds=30))
        daemon._report()
        assert manager.listen() == ["WATCHDOG=1", "READY=1", "WATCHDOG=1"]
        clock.advance(timedelta(seconds=TICK_LIMIT + 1))
        daemon._report()
        assert len(manager.listen()) == 3
        daemon._end()


def test_a_manager_that_is_gone_fails_nothing(tmp_path: Path) -> None:
    """It is said once, and the work goes on."""
    with World() as world:
        world.configure()
        world.extra |= {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1500000"}
        with world.daemon() as daemon:
            wait_for(lambda: world.secret is not None, "a publish")
            assert daemon.stop() == 0
            (line,) = daemon.lines("supervisor.unreachable")
            assert line["message"] == "NOTIFY_SOCKET: No such file or directory"


# --- within its bounds -------------------------------------------------------------------------


@cache
def sets() -> dict[str, list[str]]:
    """Systemd's sets of system calls, some of which hold others."""
    found: dict[str, list[str]] = {}
    for line in analyze("syscall-filter").stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            found[word] = members = []
        elif word and not word.startswith("#"):
            members.append(word)
    return found


def calls(name: str) -> set[str]:
    """The calls of a set."""
    if not name.startswith("@"):
        return {name}
    return {call for member in sets()[name] for call in calls(member)}


def allowed() -> set[str]:
    """What SystemCallFilter lets through."""
    found: set[str] = set()
    for value in setting("SystemCallFilter"):
        named = {call for name in value.lstrip("~").split() for call in calls(name)}
        found = found - named if value.startswith("~") else found | named
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder that `StateDirectory` makes."""
    require_namespaces()
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, NOBODY, NOBODY)
    return state


def test_it_lives_within_what_the_unit_allows(tmp_path: Path, state: Path) -> None:
    """As that user, with what systemd sets and mounts; strace sees what it asks of the kernel."""
    trace = f"{require('strace')} -D -f -qq -o /var/lib/refresher/trace"
    (command,), (credential,) = setting("ExecStart"), setting("LoadCredential")
    name, _, _ = credential.partition(":")
    with Inside() as world:
        files = tmp_path / "files"
        files.mkdir()
        (files / "refresher.toml").write_text(
            world.adapted((FOLDER / "refresher.toml").read_text())
        )
        (files / name).write_text(world.credentials["fal-key"])
        os.chown(files / name, NOBODY, NOBODY)
        (files / name).chmod(0o400)
        (files / "ca.pem").write_text(world.credentials["ca.pem"])
        at = f"/run/credentials/{UNIT.name}"
        container = Container(
            command=[*trace.split(), *shlex.split(command.replace(PROGRAM, "refresher"))],
            environ={
                **world.leading_in,
                "STATE_DIRECTORY": "/var/lib/refresher",
                "CREDENTIALS_DIRECTORY": at,
            },
            mounts=[
                Mount("/etc/refresher/refresher.toml", files / "refresher.toml"),
                Mount(f"{at}/{name}", files / name),
                Mount("/run/secrets/refresher/ca.pem", files / "ca.pem"),
                Mount("/var/lib/refresher", state, writable=True),
                Mount("/tmp"),  # PrivateTmp
            ],
            user=NOBODY,
            group=NOBODY,
        )
        with started(container, tmp_path / "container") as process:
            wait_for(lambda: world.secret is not None, "a publish")
            assert stopped(process, PATIENCE)[0] == 0
        lines = (state / "trace").read_text()
        assert (state / "refresher.db").exists()
    used = set(re.findall(r"^\d+ +(\w+)\(", lines, re.MULTILINE))
    assert len(used) > 50
    # strace itself is begun by the first process.
    assert used - allowed() - {"ptrace"} == set()
    families = set(re.findall(r"^\d+ +socket\((AF_\w+)", lines, re.MULTILINE))
    assert families <= set(setting("RestrictAddressFamilies")[0].split())
    # MemoryDenyWriteExecute
    assert not re.findall(r"^\d+ +mprotect\(.*PROT_EXEC.*$", lines, re.MULTILINE)
    assert not re.findall(r"^\d+ +mmap\(.*PROT_WRITE\|PROT_EXEC.*$", lines, re.MULTILINE)
