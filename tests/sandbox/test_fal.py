"""fal's stand-in keeps to what is known of fal, spoken to with the bare protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, timedelta

import grpc
import pytest
from grpc import StatusCode
from isolate_proto.controller_pb2 import (
    ListEnvironmentsRequest,
    ListSecretsRequest,
    Secret,
    SetSecretRequest,
)
from isolate_proto.controller_pb2_grpc import IsolateControllerStub

from refresher.clock import ManualClock
from refresher.model import SecretValue
from refresher.sandbox.fal import READ, SANDBOX_KEY, WRITE, FalKey, FalStandIn, Write

KEY = (("auth-key", SANDBOX_KEY.secret.reveal()), ("auth-key-id", SANDBOX_KEY.id))


class Client:
    """The two RPCs with a key and a deadline."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = IsolateControllerStub(channel)
        self.key = KEY
        self.seconds = 5.0

    def set(self, name: str = "A", **fields: object) -> None:
        self.stub.SetSecret(
            SetSecretRequest(name=name, **fields), metadata=self.key, timeout=self.seconds
        )

    def listed(self, **fields: object) -> list[Secret]:
        request = ListSecretsRequest(**fields)
        return list(self.stub.ListSecrets(request, metadata=self.key, timeout=self.seconds).secrets)


Connect = Callable[[FalStandIn], Client]


@pytest.fixture
def fal(clock: ManualClock) -> Iterator[FalStandIn]:
    """The stand-in in plain text, at noon."""
    with FalStandIn(clock=clock) as stand_in:
        yield stand_in


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects to a stand-in."""
    channels: list[grpc.Channel] = []

    def client(stand_in: FalStandIn) -> Client:
        options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
        channels.append(grpc.insecure_channel(stand_in.host, options=options))
        return Client(channels[-1])

    yield client
    for channel in channels:
        channel.close()


@pytest.fixture
def client(fal: FalStandIn, connect: Connect) -> Client:
    """A client of `fal`."""
    return connect(fal)


def refusal(call: Callable[[], object]) -> StatusCode:
    """The status that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def test_a_present_value_sets_and_an_absent_one_deletes(fal: FalStandIn, client: Client) -> None:
    """An empty string is a value; no value at all is how the protocol deletes."""
    client.set(value="one")
    assert fal.value("main", "A") == "one"
    client.set(value="")
    assert fal.value("main", "A") == ""
    client.set()
    assert fal.value("main", "A") is None
    assert [write.has_value for write in fal.writes] == [True, True, False]


def test_an_absent_environment_is_main(fal: FalStandIn, client: Client) -> None:
    """There is no fallback from another environment to it."""
    client.set(value="one")
    client.set(value="two", environment_name="staging")

    assert [s.name for s in client.listed()] == ["A"]
    assert client.listed(environment_name="empty") == []
    assert (fal.value("main", "A"), fal.value("staging", "A")) == ("one", "two")


def test_an_absent_exposure_keeps_what_is_stored(fal: FalStandIn, client: Client) -> None:
    """Unset at first, the account's default applies; once set, it stays until set again."""
    shown = []
    for fields in ({}, {"default_exposed": False}, {}, {"default_exposed": True}, {}):
        client.set(value="v", **fields)
        shown.append(fal.secrets["main", "A"].default_exposed)

    assert shown == [None, False, False, True, True]
    assert client.listed()[0].default_exposed is True


@pytest.mark.parametrize("moves", [True, False])
def test_whether_an_overwrite_moves_created_time_is_a_switch(
    connect: Connect, clock: ManualClock, moves: bool
) -> None:
    """What fal does is unknown, so both are there to be tested against."""
    with FalStandIn(clock=clock, created_time_moves=moves) as fal:
        client = connect(fal)
        first = clock.now()
        client.set(value="one")
        clock.advance(timedelta(hours=1))
        client.set(value="two")

        expected = clock.now() if moves else first
        assert client.listed()[0].created_time.ToDatetime(tzinfo=UTC) == expected


def test_a_list_shows_no_value(client: Client) -> None:
    """The protocol has no read."""
    client.set(value="never shown")

    assert b"never shown" not in client.listed()[0].SerializeToString()


@pytest.mark.parametrize(
    "key",
    [
        (),
        (("auth-key-id", SANDBOX_KEY.id),),
        (("auth-key", SANDBOX_KEY.secret.reveal()),),
        (("auth-key", "wrong"), ("auth-key-id", SANDBOX_KEY.id)),
    ],
    ids=["none", "id only", "secret only", "wrong"],
)
def test_a_wrong_key_is_unauthenticated(fal: FalStandIn, client: Client, key: tuple) -> None:
    """Both halves of the key are checked, by both RPCs."""
    client.key = key

    assert refusal(lambda: client.set(value="v")) is StatusCode.UNAUTHENTICATED
    assert refusal(client.listed) is StatusCode.UNAUTHENTICATED
    assert fal.writes == []


def test_a_revoked_key_is_unauthenticated(fal: FalStandIn, client: Client) -> None:
    """A key can end while its holder is at work."""
    client.set(value="v")
    fal.revoke(SANDBOX_KEY)

    assert refusal(lambda: client.set(value="w")) is StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(("permission", "other"), [(READ, WRITE), (WRITE, READ)])
def test_a_missing_permission_is_denied_by_name(
    fal: FalStandIn, client: Client, permission: str, other: str
) -> None:
    """A key may write and not list, or list and not write."""
    fal.allow(FalKey("half", SecretValue("x"), frozenset({permission})))
    client.key = (("auth-key", "x"), ("auth-key-id", "half"))
    calls = {WRITE: lambda: client.set(value="v"), READ: client.listed}

    calls[permission]()
    with pytest.raises(grpc.RpcError, match=other) as caught:
        calls[other]()
    assert caught.value.code() is StatusCode.PERMISSION_DENIED


def test_unknown_environments_are_a_switch(connect: Connect) -> None:
    """Where environments are given, others are not found."""
    with FalStandIn(environments=["main"]) as fal:
        client = connect(fal)
        client.set(value="v")
        assert refusal(lambda: client.set(value="v", environment_name="x")) is StatusCode.NOT_FOUND
        assert refusal(lambda: client.listed(environment_name="x")) is StatusCode.NOT_FOUND


def test_other_rpcs_are_not_there(client: Client) -> None:
    """Only the secrets' RPCs are stood in for."""
    request = ListEnvironmentsRequest()

    assert refusal(lambda: client.stub.ListEnvironments(request)) is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
def test_every_status_comes_on_demand(fal: FalStandIn, client: Client, code: StatusCode) -> None:
    """For both RPCs, with its words, until mended; nothing is written meanwhile."""
    fal.fail(code, "as told")

    assert refusal(lambda: client.set(value="v")) is code
    assert refusal(client.listed) is code
    assert fal.secrets == {}
    fal.mend()
    client.set(value="v")
    assert fal.value("main", "A") == "v"


def test_trouble_can_be_for_one_rpc_and_a_number_of_times(fal: FalStandIn, client: Client) -> None:
    """A list in between neither fails nor uses the number up."""
    fal.fail(StatusCode.UNAVAILABLE, method="SetSecret", times=2)

    assert refusal(lambda: client.set(value="v")) is StatusCode.UNAVAILABLE
    assert client.listed() == []
    assert refusal(lambda: client.set(value="v")) is StatusCode.UNAVAILABLE
    client.set(value="v")


def test_a_write_may_be_applied_and_then_fail(fal: FalStandIn, client: Client) -> None:
    """So its client cannot know; the next one is answered."""
    fal.apply_then_fail(StatusCode.UNAVAILABLE, times=1)

    assert refusal(lambda: client.set(value="v")) is StatusCode.UNAVAILABLE
    assert fal.value("main", "A") == "v"
    client.set(value="w")


@pytest.mark.parametrize("applied", [True, False])
def test_a_hanging_server_never_answers(fal: FalStandIn, client: Client, applied: bool) -> None:
    """The client's own deadline is all that ends the call."""
    fal.hang(applied=applied)
    client.seconds = 0.2

    assert refusal(lambda: client.set(value="v")) is StatusCode.DEADLINE_EXCEEDED
    assert fal.value("main", "A") == ("v" if applied else None)


def test_a_slow_server_carries_out_what_its_client_gave_up(fal: FalStandIn, client: Client) -> None:
    """A write that timed out can land later, as with a real server."""
    fal.slow(0.4, times=1)
    client.seconds = 0.1
    assert refusal(lambda: client.set(value="late")) is StatusCode.DEADLINE_EXCEEDED
    assert fal.value("main", "A") is None

    until = time.monotonic() + 5
    while fal.value("main", "A") is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert fal.value("main", "A") == "late"


def test_a_restart_keeps_port_and_secrets(fal: FalStandIn, connect: Connect) -> None:
    """Connections are cut, and the same address answers again."""
    before = fal.host
    connect(fal).set(value="v")

    fal.restart()

    assert fal.host == before
    assert [s.name for s in connect(fal).listed()] == ["A"]


def test_a_stopped_server_is_not_there(fal: FalStandIn, client: Client) -> None:
    """Nothing listens between stop and start, and a hanging call does not delay it."""
    fal.hang()
    client.seconds = 0.1
    refusal(lambda: client.set(value="v"))
    fal.stop()

    assert refusal(lambda: client.set(value="v")) is StatusCode.UNAVAILABLE


def test_what_a_secret_held_is_remembered_with_its_time(
    fal: FalStandIn, client: Client, clock: ManualClock
) -> None:
    """A demo can tell what stood there at every moment."""
    noon = clock.now()
    client.set(value="one")
    clock.advance(timedelta(minutes=5))
    client.set(value="two")
    client.set()

    later = noon + timedelta(minutes=5)
    held = [(h.since, h.value and h.value.reveal()) for h in fal.history("main", "A")]
    assert held == [(noon, "one"), (later, "two"), (later, None)]
    assert fal.history("main", "unknown") == ()


def test_calls_and_writes_are_kept_without_values(connect: Connect, clock: ManualClock) -> None:
    """What came in is there to be compared, and a listener hears of every write."""
    heard: list[Write] = []
    with FalStandIn(clock=clock, on_write=heard.append) as fal:
        connect(fal).set(value="a-value-of-some-length", environment_name="staging")

        (call,) = fal.calls
        assert call.method == "/controller.IsolateController/SetSecret"
        assert {"auth-key", "auth-key-id"} <= call.metadata
        assert call.fields == {"name", "value", "environment_name"}
        assert fal.writes == heard == [Write(clock.now(), "staging", "A", True, False)]
        assert "a-value-of-some-length" not in repr((fal.calls, fal.writes, fal.secrets))
        assert SANDBOX_KEY.secret.reveal() not in repr((fal.calls, SANDBOX_KEY))
