"""The demo: it shows refreshes, and its verdict is one that can be trusted."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from refresher.clock import SystemClock
from refresher.demo import Watch, run
from refresher.errors import RefresherError
from refresher.model import SecretRef, SecretValue
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.sandbox.aws import ACCOUNT, Issued, new_password
from refresher.sandbox.world import REGION, World

SECRET = SecretRef("default", "main", "AWS_ECR_PASSWORD")


class Story:
    """What the demo told; it opens the status page when the first password stands."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.page: int | None = None

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if "refreshed, because missing" in line:
            self.page = self._open_page()

    def count(self, text: str) -> int:
        return sum(text in line for line in self.lines)

    def _open_page(self) -> int:
        (port,) = re.findall(r"http://127\.0\.0\.1:([0-9]+)/?$", "\n".join(self.lines), re.M)
        with closing(http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().status


@pytest.fixture(scope="module")
def story() -> Story:
    """A demo of four seconds, which was good."""
    before = dict(os.environ)
    story = Story()
    assert run(4, 0, story, life=timedelta(seconds=6))
    assert dict(os.environ) == before
    return story


def test_it_refreshes_and_ends_by_itself(story: Story) -> None:
    """Refreshes, re-verifications and an expired token later all was good, and it says so."""
    assert story.count("local stand-ins") == 1
    assert story.page == 200
    for name in ("ecr", "gar", "dockerhub", "oci"):
        assert story.count(f"s  {name:<9}  refreshed, because missing") == 1
    assert story.count("ecr        refreshed, because stale") >= 1
    # Once a second, not at every tick; of the others the first check only.
    assert 1 <= story.count("ecr        re-verified") <= 4
    assert story.count("oci        re-verified") == 1
    assert "0 failures besides 1 planned" in story.lines[-3]
    assert " 0 of them bad" in story.lines[-2]
    assert story.lines[-1].startswith("Good:")


def test_it_is_fit_to_be_read(story: Story) -> None:
    """No line is too long for a terminal, and none holds a value."""
    assert not [line for line in story.lines if len(line) > 80]
    assert not [line for line in story.lines if re.search(r"[A-Za-z0-9+/=_-]{30}", line)]


def test_it_says_why_the_expired_token_was_refused_and_what_stands_now(story: Story) -> None:
    """The reason, what to do, and that the secret holds what it held."""
    told = " ".join(" ".join(story.lines).split())
    first = re.search(r"dockerhub refreshed, because missing; holds (\w{8})", told)
    assert first is not None
    _, _, after = told.partition("refuses the token: it expired")
    assert "failed at verify (unauthorized)" in after
    assert "personal access token is expired; make a new token" in after
    assert f"DOCKERHUB_TOKEN (main) holds {first[1]}, as before" in after


@pytest.mark.slow  # the daemon looks at files every 20 s
def test_the_replaced_token_is_published_by_itself() -> None:
    """Nobody asks for it: the watch on its file finds it."""
    story = Story()

    assert run(24, 0, story)

    assert story.count("a person puts a new token into its file") == 1
    assert story.count("dockerhub  refreshed, because value_changed") == 1


def test_ctrl_c_ends_it() -> None:
    """Without an end of its own it runs until SIGINT, and judges what it saw by then."""
    story = Story()
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))

    def interrupting(line: str) -> None:
        story(line)
        if "ecr        refreshed" in line and timer.ident is None:
            timer.start()  # from here on the demo heeds signals

    assert run(None, 0, interrupting)

    timer.join()
    assert story.count("It ends with Ctrl-C.") == 1
    assert story.lines[-1].startswith("Good:")


def test_it_is_false_where_something_else_fails() -> None:
    """Of the refusals only that of the expired token is planned."""
    story = Story()

    def spoiling(line: str) -> None:
        story(line)
        if "oci        refreshed" in line:
            os.environ["GHCR_TOKEN"] = "wrong"  # until the demo gives the environment back

    assert not run(3, 0, spoiling, life=timedelta(seconds=6))

    assert story.count("oci        failed at verify (unauthorized)") == 1
    assert story.lines[-1].startswith("Bad:")


def test_it_is_false_where_a_password_died_in_the_secret() -> None:
    """Passwords of one second die before the loop guard allows the next."""
    story = Story()

    assert not run(5, 0, story, life=timedelta(seconds=1))

    assert story.lines[-1].startswith("Bad:")


def test_a_port_that_is_taken_is_named() -> None:
    """A port that a person asked for is not replaced by another."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        with pytest.raises(RefresherError, match=str(port)):
            run(1, port, lambda _line: None)


@pytest.fixture
def world() -> Iterator[World]:
    """A world in which nothing has been published."""
    with World() as made:
        yield made


@pytest.fixture
def publisher(world: World) -> Iterator[FalPublisher]:
    """Our client of the world's fal."""
    made = FalPublisher(
        "default",
        Reference(env="FAL_KEY"),
        host=world.fal.host,
        ca_bundle=world.certificates.ca_file,
        clock=SystemClock(),
        environ=world.environ,
    )
    yield made
    made.close()


def password(world: World, life: timedelta = timedelta(hours=12)) -> SecretValue:
    """A password that the world's AWS issued."""
    now = datetime.now(UTC)
    made = new_password(now + life)
    world.aws.passwords.add(made, Issued(ACCOUNT, REGION, "ecr", now + life), now)
    return SecretValue(made)


def test_a_watch_of_good_passwords_is_good(world: World, publisher: FalPublisher) -> None:
    """Nothing counts before the first publish; from then on every look does."""
    watch = Watch(world)
    watch.look()
    watch.log_in()
    assert not watch.began
    assert (watch.moments.asked, watch.logins.asked) == (0, 0)

    for _ in range(2):
        publisher.publish(SECRET, password(world), None)
        watch.look()
        watch.log_in()

    assert watch.good
    assert watch.moments.asked >= 4
    assert watch.logins.asked == 2


def test_a_watch_sees_what_stood_between_two_looks(world: World, publisher: FalPublisher) -> None:
    """A wrong value is found although a good one replaced it before anybody looked."""
    watch = Watch(world)
    publisher.publish(SECRET, password(world), None)
    watch.look()
    publisher.publish(SECRET, SecretValue("wrong"), None)
    publisher.publish(SECRET, password(world), None)
    watch.look()
    watch.log_in()

    assert not watch.good
    assert watch.moments.bad
    assert not watch.logins.bad


def test_a_watch_sees_that_a_password_was_replaced_too_late(
    world: World, publisher: FalPublisher
) -> None:
    """The last moment of a password counts, also when nobody looked at that time."""
    watch = Watch(world)
    publisher.publish(SECRET, password(world, timedelta(0)), None)
    publisher.publish(SECRET, password(world), None)
    watch.look()

    assert not watch.good


def test_a_watch_counts_refused_logins(world: World, publisher: FalPublisher) -> None:
    """What the registry says counts, whatever the issuer thinks of the password."""
    watch = Watch(world)
    publisher.publish(SECRET, password(world), None)
    watch.look()
    world.registry.stop()
    watch.log_in()

    assert not watch.moments.bad
    assert watch.logins.bad == 1
    assert not watch.good


def test_a_watch_ends_where_nothing_is_published(world: World) -> None:
    """It calls for the end after its seconds, and finds that nothing was good."""
    watch = Watch(world)
    watch.run(0.1, watch.end)

    assert not watch.good
