"""`notify --test` as a real process: who hears, what is shown, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from refresher.sandbox.http import Request, Response, StandIn
from tests.world import World

CANARY = "canary-77aa"


class Receiver(StandIn):
    """A service that takes notices."""

    def handle(self, request: Request) -> Response:
        return Response(200)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A service on loopback."""
    with Receiver() as receiver:
        yield receiver


def tell(world: World, *urls: str) -> None:
    """Configure these URLs, each by a variable of its own."""
    names = [f"NOTIFY_{n}" for n in range(len(urls))]
    listed = ", ".join(f'{{ env = "{name}" }}' for name in names)
    text = world.config.read_text()
    world.config.write_text(text.replace("[daemon]", f"[daemon]\nnotify = [{listed}]"))
    world.extra = dict(zip(names, urls, strict=True))


def test_every_url_hears_the_test(world: World, receiver: Receiver) -> None:
    """A line each, with where the URL is kept and its scheme; exit 0."""
    tell(world, f"json://{CANARY}@127.0.0.1:{receiver.port}/", f"xml://127.0.0.1:{receiver.port}/")
    done = world.cli("notify", "--test")
    assert done.returncode == 0, done.stderr
    assert [row.split()[:3] for row in done.stdout.splitlines()] == [
        ["NOTIFIER", "RESULT", "SERVICE"],
        ["$NOTIFY_0", "ok", "json"],
        ["$NOTIFY_1", "ok", "xml"],
    ]
    assert json.loads(receiver.requests[0].body)["title"] == "refresher: a test"
    assert len(receiver.requests) == 2
    assert CANARY not in done.stdout + done.stderr


def test_a_service_of_ones_own_authority_hears_it(world: World) -> None:
    """`daemon.ca_bundle` is trusted, as with every other peer."""
    with Receiver(certificates=world.certificates) as receiver:
        tell(world, f"jsons://127.0.0.1:{receiver.port}/")
        done = world.cli("notify", "--test")
        assert done.returncode == 0, done.stdout
        assert len(receiver.requests) == 1
        bundle = f'ca_bundle = "{world.certificates.ca_file}"'
        world.config.write_text(world.config.read_text().replace(bundle, ""))
        assert world.cli("notify", "--test").returncode == 1
        assert len(receiver.requests) == 1


def test_one_that_fails_is_exit_1(world: World, receiver: Receiver) -> None:
    """The others are told all the same, and no part of a URL is shown."""
    good = f"json://127.0.0.1:{receiver.port}/"
    tell(world, CANARY, f"nope://{CANARY}", f"json://127.0.0.1:1/{CANARY}", good)
    done = world.cli("notify", "--test", "--debug", "--output", "json")
    assert done.returncode == 1
    results = json.loads(done.stdout)["notifiers"]
    assert [(each["result"], each["service"]) for each in results] == [
        ("failed", "?"),
        ("failed", "nope"),
        ("failed", "json"),
        ("ok", "json"),
    ]
    assert "is no URL that Apprise knows" in results[0]["detail"]
    assert "unreachable" in results[2]["detail"]
    assert CANARY not in done.stdout + done.stderr


def test_without_a_url_it_is_exit_2(world: World) -> None:
    """None configured, one that is unset, and no --test: each says what to do."""
    none = world.cli("notify", "--test")
    assert none.returncode == 2
    assert "daemon.notify: none is configured; add Apprise URLs" in none.stderr
    bare = world.cli("notify")
    assert bare.returncode == 2
    assert "--test" in bare.stderr
    tell(world, "json://127.0.0.1:1/")
    world.extra = {}
    unset = world.cli("notify", "--test")
    assert unset.returncode == 2
    assert "daemon.notify[0]: environment variable NOTIFY_0 is not set" in unset.stderr
