"""Publishing to fal, against the stand-in over loopback TLS."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psutil
import pytest
from grpc import StatusCode
from isolate_proto.controller_pb2 import ListSecretsResponse, Secret

from refresher.clock import ManualClock, SystemClock
from refresher.errors import (
    Failure,
    Forbidden,
    Interrupted,
    InvalidCredential,
    InvalidResponse,
    Misconfigured,
    NotFound,
    Throttled,
    TimedOut,
    TlsFailure,
    Unauthorized,
    Unavailable,
)
from refresher.model import ListedSecret, SecretRef, SecretValue
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.fal import SANDBOX_KEY, SERVICE, WRITE, FalKey, FalStandIn
from refresher.sandbox.http import Fault, StandIn
from tests.peers import free_port
from tests.publish.relay import Relay

REF = SecretRef("default", "main", "AWS_ECR_PASSWORD")
VALUE = SecretValue("an-ecr-password-" + "p" * 2000)
KEY = Reference(env="FAL_KEY")

Make = Callable[..., FalPublisher]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A throw-away authority and a certificate for loopback."""
    return authority(tmp_path_factory.mktemp("certificates"), datetime.now(UTC))


@pytest.fixture
def fal(certificates: Certificates) -> Iterator[FalStandIn]:
    """fal's stand-in, over TLS."""
    with FalStandIn(certificates) as stand_in:
        yield stand_in


@pytest.fixture
def make(fal: FalStandIn, certificates: Certificates) -> Iterator[Make]:
    """Makes publishers to the stand-in, and closes them."""
    made: list[FalPublisher] = []

    def publisher(key: str = SANDBOX_KEY.reveal(), **settings: object) -> FalPublisher:
        given = {
            "host": fal.host,
            "ca_bundle": certificates.ca_file,
            "clock": SystemClock(),
            "environ": {"FAL_KEY": key},
            **settings,
        }
        made.append(FalPublisher("default", KEY, **given))
        return made[-1]

    yield publisher
    for each in made:
        each.close()


@pytest.fixture
def publisher(make: Make) -> FalPublisher:
    """A publisher with the key that works."""
    return make()


def shown(failure: BaseException) -> str:
    """Everything that a log could show of a failure."""
    return "".join(
        [
            *(str(failure), repr(failure), repr(failure.__cause__), repr(failure.__context__)),
            *traceback.format_exception(failure),
        ]
    )


# What is written


def test_a_value_is_published_and_read_back(fal: FalStandIn, publisher: FalPublisher) -> None:
    """After `publish` returns the secret holds the value, byte for byte."""
    publisher.publish(REF, VALUE, None)

    assert fal.value("main", REF.name) == VALUE.reveal()


def test_each_environment_is_written_on_its_own(fal: FalStandIn, publisher: FalPublisher) -> None:
    """`main` is named like any other environment, and none is written along with another."""
    publisher.publish(REF, VALUE, None)
    publisher.publish(SecretRef("default", "staging", REF.name), SecretValue("other"), None)

    assert fal.value("main", REF.name) == VALUE.reveal()
    assert fal.value("staging", REF.name) == "other"
    assert all("environment_name" in call.fields for call in fal.calls)


def test_exposure_is_left_alone_unless_configured(fal: FalStandIn, publisher: FalPublisher) -> None:
    """A hidden secret stays hidden: `default_exposed` is absent unless the user set it."""
    exposures = []
    for exposed in (None, False, None, True, None):
        publisher.publish(REF, VALUE, exposed)
        exposures.append(fal.secrets["main", REF.name].default_exposed)

    assert exposures == [None, False, False, True, True]
    assert [w.default_exposed_present for w in fal.writes] == [False, True, False, True, False]


@pytest.mark.parametrize("value", ["", " ", "\n", "a\0b", "lone \ud800 surrogate"])
def test_a_value_that_may_not_stand_in_a_secret_is_not_sent(
    fal: FalStandIn, publisher: FalPublisher, value: str
) -> None:
    """Nothing empty is written, and what stood before stands on."""
    publisher.publish(REF, VALUE, None)

    with pytest.raises(InvalidCredential, match="nothing was written"):
        publisher.publish(REF, SecretValue(value), None)
    assert len(fal.calls) == 1
    assert fal.value("main", REF.name) == VALUE.reveal()


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A" * 129, "É", "A\n"])
def test_a_name_that_is_no_environment_variable_is_refused(
    fal: FalStandIn, publisher: FalPublisher, name: str
) -> None:
    """Secrets become environment variables, so only such names are sent."""
    with pytest.raises(Misconfigured, match="no name for a fal secret"):
        publisher.publish(SecretRef("default", "main", name), VALUE, None)
    assert fal.calls == []


def test_a_later_write_replaces_an_earlier_one(fal: FalStandIn, publisher: FalPublisher) -> None:
    """The secret holds what was written last, and was never absent in between."""
    for value in ("one", "two", "three"):
        publisher.publish(REF, SecretValue(value), None)

    held = [h.value.reveal() if h.value else None for h in fal.history("main", REF.name)]
    assert held == ["one", "two", "three"]


# The key


@pytest.mark.parametrize(
    "key",
    ["", ":", "id", "id:", ":secret", "id secret", "id:sec ret", "id:sec\nret", "id:\x7f", "íd:x"],
)
def test_a_key_that_is_none_is_named_and_not_sent(fal: FalStandIn, make: Make, key: str) -> None:
    """A malformed FAL_KEY is a `config` failure that says what to do, and nothing is sent."""
    with pytest.raises(Misconfigured, match=r"the fal key in \$FAL_KEY is not `id:secret`"):
        make(key).publish(REF, VALUE, None)
    assert fal.calls == []


def test_a_key_that_is_none_is_not_shown(make: Make) -> None:
    """A malformed key may be a good one with a slip in it, so it stays out of every message."""
    parts = ("key-" * 3, "secret-" * 3)
    with pytest.raises(Misconfigured) as caught:
        make(": ".join(parts)).publish(REF, VALUE, None)
    assert not any(part in shown(caught.value) for part in parts)


def test_an_unset_key_is_named(make: Make) -> None:
    """A variable that is not set is a `config` failure that names it."""
    with pytest.raises(Misconfigured, match="FAL_KEY is not set"):
        make(environ={}).publish(REF, VALUE, None)


@pytest.mark.parametrize("key", ["k:s\n", "\tk:s \r\n", "k:s:with:colons", "k:~!@#$%^&*()_+"])
def test_a_key_is_stripped_and_split_at_its_first_colon(
    fal: FalStandIn, make: Make, key: str
) -> None:
    """A trailing newline does no harm, nor do colons in the secret."""
    key_id, secret = key.strip().split(":", 1)
    fal.allow(FalKey(key_id, SecretValue(secret)))

    make(key).publish(REF, VALUE, None)

    assert fal.value("main", REF.name) == VALUE.reveal()


def test_a_changed_key_takes_effect_at_the_next_call(
    fal: FalStandIn, certificates: Certificates, tmp_path: Path
) -> None:
    """The key is read anew each time, and the connection outlives it."""
    fal.allow(FalKey("new", SecretValue("key")))
    file = tmp_path / "key"
    file.write_text(SANDBOX_KEY.reveal())
    with Relay(fal.host) as relay:
        publisher = FalPublisher(
            "default",
            Reference(file=file),
            host=relay.host,
            ca_bundle=certificates.ca_file,
            clock=SystemClock(),
        )
        publisher.publish(REF, SecretValue("one"), None)
        fal.revoke(SANDBOX_KEY)
        with pytest.raises(Unauthorized, match=f"the key in file {file} was refused"):
            publisher.publish(REF, SecretValue("two"), None)
        file.write_text("new:key\n")
        publisher.publish(REF, SecretValue("three"), None)
        publisher.close()

    assert fal.value("main", REF.name) == "three"
    assert relay.accepted == 1


# What fal answers

STATUSES = [
    (StatusCode.UNAUTHENTICATED, Unauthorized),
    (StatusCode.PERMISSION_DENIED, Forbidden),
    (StatusCode.NOT_FOUND, NotFound),
    (StatusCode.INVALID_ARGUMENT, Misconfigured),
    (StatusCode.RESOURCE_EXHAUSTED, Throttled),
    (StatusCode.UNAVAILABLE, Unavailable),
    (StatusCode.DEADLINE_EXCEEDED, TimedOut),
    (StatusCode.ABORTED, Unavailable),
    (StatusCode.CANCELLED, Unavailable),
    (StatusCode.INTERNAL, Unavailable),
    (StatusCode.UNKNOWN, Unavailable),
    (StatusCode.FAILED_PRECONDITION, InvalidResponse),
    (StatusCode.OUT_OF_RANGE, InvalidResponse),
    (StatusCode.ALREADY_EXISTS, InvalidResponse),
    (StatusCode.DATA_LOSS, InvalidResponse),
    (StatusCode.UNIMPLEMENTED, InvalidResponse),
]


@pytest.mark.parametrize(("code", "kind"), STATUSES, ids=lambda each: getattr(each, "name", ""))
def test_every_status_is_a_failure_of_its_kind(
    fal: FalStandIn, publisher: FalPublisher, code: StatusCode, kind: type[Failure]
) -> None:
    """One call, one failure that says what, where and why; the secret stays as it was."""
    publisher.publish(REF, VALUE, None)
    fal.fail(code, "what fal says of it")

    with pytest.raises(kind) as caught:
        publisher.publish(REF, SecretValue("the next value"), None)
    assert type(caught.value) is kind
    assert caught.value.message.startswith(f"writing AWS_ECR_PASSWORD (main) at {fal.host} failed:")
    assert caught.value.message.endswith("(what fal says of it)")
    assert len(fal.calls) == 2
    assert fal.value("main", REF.name) == VALUE.reveal()


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("Illegal metadata", Misconfigured),
        ("Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED", TlsFailure),
        ("recvmsg:Connection reset by peer", Unavailable),
    ],
)
def test_what_only_looks_transient_is_told_apart(
    fal: FalStandIn, publisher: FalPublisher, details: str, kind: type[Failure]
) -> None:
    """gRPC reports a bad key and a bad certificate as UNAVAILABLE; waiting helps neither."""
    fal.fail(StatusCode.UNAVAILABLE, details)

    with pytest.raises(kind):
        publisher.publish(REF, VALUE, None)


def test_a_missing_permission_is_named(fal: FalStandIn, make: Make) -> None:
    """The message says which permission to give the key."""
    fal.allow(FalKey("reader", SecretValue("x"), frozenset()))

    with pytest.raises(Forbidden, match="--permission serverless:secrets:write"):
        make("reader:x").publish(REF, VALUE, None)


def test_an_unknown_environment_is_named(certificates: Certificates, make: Make) -> None:
    """The message says how to create the environment."""
    with FalStandIn(certificates, environments=["main"]) as fal:
        publisher = make(host=fal.host)
        with pytest.raises(NotFound, match="`fal environments create staging`"):
            publisher.publish(SecretRef("default", "staging", "A"), VALUE, None)
        publisher.close()


@pytest.mark.parametrize(
    "details",
    [
        f"bad value {VALUE.reveal()}",
        f"bad value starting with {VALUE.reveal()[:20]}...",
        f"bad key {SANDBOX_KEY.secret.reveal()}",
        f"bad key {SANDBOX_KEY.secret.reveal()[:14]}",
    ],
)
@pytest.mark.parametrize("code", [StatusCode.INVALID_ARGUMENT, StatusCode.UNAVAILABLE])
def test_a_server_that_echoes_a_secret_is_not_quoted(
    fal: FalStandIn, publisher: FalPublisher, code: StatusCode, details: str
) -> None:
    """Neither message, chain nor traceback of a failure shows the value, the key or a part."""
    fal.fail(code, details)

    with pytest.raises(Failure, match="withheld") as caught:
        publisher.publish(REF, VALUE, None)
    assert VALUE.reveal()[:16] not in shown(caught.value)
    assert SANDBOX_KEY.secret.reveal()[:14] not in shown(caught.value)
    assert caught.value.__context__ is None


def test_a_publisher_does_not_show_its_key(publisher: FalPublisher) -> None:
    """Its representation names where the key is kept."""
    assert "$FAL_KEY" in repr(publisher)
    assert SANDBOX_KEY.secret.reveal() not in repr(publisher)


def test_what_fal_says_is_shown_as_one_short_line(fal: FalStandIn, publisher: FalPublisher) -> None:
    """Control characters and length of a server's words do not reach the log."""
    fal.fail(StatusCode.INTERNAL, "one\n\x1b[31mtwo\t" + "x" * 1000)

    with pytest.raises(Unavailable) as caught:
        publisher.publish(REF, VALUE, None)
    assert caught.value.message.isprintable()
    assert "(one [31mtwo xxx" in caught.value.message
    assert len(caught.value.message) < 400


# Listing


def test_secrets_are_listed_with_the_time_that_fal_shows(
    certificates: Certificates, make: Make, clock: ManualClock
) -> None:
    """Name, environment and creation in UTC; other environments are not in it."""
    with FalStandIn(certificates, clock=clock) as fal:
        publisher = make(host=fal.host)
        publisher.publish(REF, VALUE, None)
        publisher.publish(SecretRef("default", "staging", "B"), VALUE, None)

        assert publisher.listed("main") == (ListedSecret("main", REF.name, clock.now()),)
        assert [s.name for s in publisher.listed("staging")] == ["B"]
        assert publisher.listed("empty") == ()
        publisher.close()


def test_a_write_only_key_can_publish_and_not_list(fal: FalStandIn, make: Make) -> None:
    """Such a key suffices; the refused list names the permission that it lacks."""
    fal.allow(FalKey("writer", SecretValue("x"), frozenset({WRITE})))
    publisher = make("writer:x")

    publisher.publish(REF, VALUE, None)

    with pytest.raises(Forbidden, match="serverless:secrets:read"):
        publisher.listed("main")
    assert fal.value("main", REF.name) == VALUE.reveal()


@contextmanager
def answering(response: bytes) -> Iterator[str]:
    """A gRPC server in plain text that answers ListSecrets with these bytes."""
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: response)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"ListSecrets": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def _in_the_year_292277() -> bytes:
    secret = Secret(name="A")
    secret.created_time.seconds = 2**53
    return ListSecretsResponse(secrets=[secret]).SerializeToString()


@pytest.mark.parametrize(
    "response", [b"\xff\xff not protobuf", _in_the_year_292277()], ids=["garbage", "date"]
)
def test_a_list_that_cannot_be_read_is_an_invalid_response(make: Make, response: bytes) -> None:
    """Nonsense from the peer is named as such, and not taken for an outage."""
    with answering(response) as host:
        publisher = make(host=host, tls=False)
        with pytest.raises(InvalidResponse):
            publisher.listed("main")
        publisher.close()


def test_a_list_may_leave_out_environment_and_time(make: Make) -> None:
    """Both are optional in the protocol; the environment asked for is then the one."""
    bare = ListSecretsResponse(secrets=[Secret(name="A")]).SerializeToString()
    with answering(bare) as host:
        publisher = make(host=host, tls=False)
        assert publisher.listed("main") == (ListedSecret("main", "A", None),)
        publisher.close()


# The connection


def test_one_connection_serves_all_calls(fal: FalStandIn, make: Make) -> None:
    """The channel is made when first needed and reused by every thread."""
    with Relay(fal.host) as relay:
        publisher = make(host=relay.host)
        assert relay.accepted == 0
        with futures.ThreadPoolExecutor(4) as pool:
            names = [SecretRef("default", "main", f"S{n}") for n in range(12)]
            list(pool.map(lambda ref: publisher.publish(ref, VALUE, None), names))
        publisher.listed("main")
        publisher.close()

    assert relay.accepted == 1
    assert len(fal.writes) == 12


def test_a_server_that_was_away_is_used_again_at_once(
    fal: FalStandIn, publisher: FalPublisher
) -> None:
    """The same publisher recovers with the first call after an outage, without a backoff."""
    publisher.publish(REF, SecretValue("before"), None)
    fal.stop()
    for _ in range(5):
        with pytest.raises(Unavailable):
            publisher.publish(REF, SecretValue("during"), None)
    fal.start()

    publisher.publish(REF, SecretValue("after"), None)

    assert fal.value("main", REF.name) == "after"


def test_a_crash_between_calls_goes_unnoticed_or_costs_one_attempt(
    fal: FalStandIn, publisher: FalPublisher
) -> None:
    """A restarted server is reached again with the second call at the latest."""
    publisher.publish(REF, SecretValue("before"), None)
    fal.restart()

    try:
        publisher.publish(REF, SecretValue("after"), None)
    except Unavailable:
        publisher.publish(REF, SecretValue("after"), None)

    assert fal.value("main", REF.name) == "after"


@pytest.mark.parametrize("tls", [True, False])
def test_a_connection_that_died_without_a_word_is_not_used_again(
    certificates: Certificates, make: Make, tls: bool
) -> None:
    """After a suspended machine or a lost NAT entry one call is lost, not fifteen minutes.

    It is a matter of each account: that another one still holds a dead connection to the same
    host changes nothing.
    """
    with FalStandIn(certificates if tls else None) as fal, Relay(fal.host) as relay:
        publisher = make(host=relay.host, tls=tls, deadline=0.4)
        another = make(host=relay.host, tls=tls)
        publisher.publish(REF, SecretValue("before"), None)
        another.publish(REF, SecretValue("before"), None)
        relay.freeze()
        with pytest.raises(TimedOut):
            publisher.publish(REF, SecretValue("lost"), None)

        publisher.publish(REF, SecretValue("after"), None)
        assert fal.value("main", REF.name) == "after"
        assert relay.accepted == 3
        publisher.close()
        another.close()


def test_a_call_under_way_survives_the_failure_of_another(
    fal: FalStandIn, publisher: FalPublisher
) -> None:
    """A connection that one call gives up is not torn from under the others."""
    fal.slow(0.5, times=1)
    other = SecretRef("default", "main", "OTHER")
    with futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(publisher.publish, REF, VALUE, None)
        _until(lambda: len(fal.calls) == 1)
        fal.fail(StatusCode.UNAVAILABLE, times=1)
        with pytest.raises(Unavailable):
            publisher.publish(other, VALUE, None)
        gc.collect()
        slow.result(5)

    assert fal.value("main", REF.name) == VALUE.reveal()


def test_connections_that_failed_do_not_pile_up(fal: FalStandIn, publisher: FalPublisher) -> None:
    """A long outage leaves no sockets behind."""
    publisher.publish(REF, VALUE, None)
    process = psutil.Process()
    fal.fail(StatusCode.UNAVAILABLE)
    before = process.num_fds()

    for _ in range(15):
        with pytest.raises(Unavailable):
            publisher.publish(REF, VALUE, None)

    gc.collect()
    _until(lambda: process.num_fds() < before + 8)


def test_a_hanging_server_ends_as_a_timeout(fal: FalStandIn, make: Make) -> None:
    """A peer that is alive and never answers costs the deadline and no more."""
    publisher = make(deadline=0.3)
    fal.hang()
    began = time.monotonic()

    with pytest.raises(TimedOut, match=r"no answer within 0\.3 s"):
        publisher.publish(REF, VALUE, None)
    with pytest.raises(TimedOut):
        publisher.listed("main")
    assert time.monotonic() - began < 3


def test_a_write_that_timed_out_may_have_been_applied(fal: FalStandIn, make: Make) -> None:
    """Sending the same value again is safe and ends the doubt."""
    publisher = make(deadline=0.3)
    fal.hang(times=1, applied=True)

    with pytest.raises(TimedOut):
        publisher.publish(REF, VALUE, None)
    assert fal.value("main", REF.name) == VALUE.reveal()
    publisher.publish(REF, VALUE, None)
    assert len(fal.writes) == 2


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for another name."""
    directory = tmp_path_factory.mktemp("elsewhere")
    return authority(directory, datetime.now(UTC), names=["elsewhere.invalid"])


@pytest.fixture(scope="module")
def expired(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate whose time is over."""
    directory = tmp_path_factory.mktemp("expired")
    return authority(directory, datetime.now(UTC), life=-timedelta(hours=1))


@pytest.mark.parametrize("which", ["elsewhere", "expired"])
def test_a_certificate_that_is_not_good_is_a_tls_failure(
    make: Make, request: pytest.FixtureRequest, which: str
) -> None:
    """A wrong name and an expired certificate are told apart from an outage."""
    bad: Certificates = request.getfixturevalue(which)
    with FalStandIn(bad) as fal:
        publisher = make(host=fal.host, ca_bundle=bad.ca_file)
        with pytest.raises(TlsFailure, match="GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
            publisher.publish(REF, VALUE, None)
        publisher.close()
        assert fal.calls == []


@pytest.mark.parametrize("bundle", [None, "elsewhere", "garbage"])
def test_an_authority_that_is_not_trusted_is_a_tls_failure(
    fal: FalStandIn, make: Make, elsewhere: Certificates, tmp_path: Path, bundle: str | None
) -> None:
    """Without the right authority nothing is sent, not even the key."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    files = {None: None, "elsewhere": elsewhere.ca_file, "garbage": garbage}

    with pytest.raises(TlsFailure):
        make(ca_bundle=files[bundle]).publish(REF, VALUE, None)
    assert fal.calls == []


def test_a_corrected_bundle_is_read_without_a_restart(
    fal: FalStandIn, make: Make, certificates: Certificates, elsewhere: Certificates, tmp_path: Path
) -> None:
    """A bundle that is missing or wrong is read again at the next attempt."""
    bundle = tmp_path / "ca.pem"
    publisher = make(ca_bundle=bundle)
    with pytest.raises(Misconfigured, match=f"cannot read the CA bundle {bundle}"):
        publisher.publish(REF, VALUE, None)
    bundle.write_bytes(elsewhere.ca_file.read_bytes())
    with pytest.raises(TlsFailure):
        publisher.publish(REF, VALUE, None)
    bundle.write_bytes(certificates.ca_file.read_bytes())

    publisher.publish(REF, VALUE, None)

    assert fal.value("main", REF.name) == VALUE.reveal()


def test_the_roots_that_grpc_is_told_of_are_heard(
    fal: FalStandIn, certificates: Certificates
) -> None:
    """Without a bundle of ours GRPC_DEFAULT_SSL_ROOTS_FILE_PATH decides, as for fal's client."""
    script = (
        "import sys; from refresher.publish.fal import *; from refresher.clock import SystemClock\n"
        "publisher = FalPublisher('default', Reference(env='FAL_KEY'),"
        " host=sys.argv[1], clock=SystemClock())\n"
        "publisher.publish(SecretRef('default', 'main', 'A'), SecretValue('from a process'), None)"
    )
    env = {
        **os.environ,
        "FAL_KEY": SANDBOX_KEY.reveal(),
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificates.ca_file),
    }
    subprocess.run([sys.executable, "-c", script, fal.host], env=env, check=True, timeout=30)

    assert fal.value("main", "A") == "from a process"


class NotGrpc(StandIn):
    """Something that listens and does not speak HTTP/2."""


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("fault", [Fault.garbage(), Fault.reset()], ids=["garbage", "reset"])
def test_a_peer_that_is_not_fal_is_a_failure(make: Make, tls: bool, fault: Fault) -> None:
    """Whatever listens at the address, the call ends in one of our failures and in time."""
    with NotGrpc() as peer:
        peer.fail(fault)
        publisher = make(host=f"127.0.0.1:{peer.port}", tls=tls, deadline=1.0)
        with pytest.raises((Unavailable, TlsFailure, TimedOut)):
            publisher.publish(REF, VALUE, None)
        publisher.close()


def test_nobody_there_is_unavailable(make: Make) -> None:
    """A refused connection is an outage."""
    with pytest.raises(Unavailable, match="fal cannot be reached now"):
        make(host=f"127.0.0.1:{free_port()}").publish(REF, VALUE, None)


def test_loopback_is_not_reached_through_a_proxy(
    fal: FalStandIn, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment is for the way out; the sandbox is not out there."""
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")

    make().publish(REF, VALUE, None)

    assert fal.value("main", REF.name) == VALUE.reveal()


def test_plain_text_is_for_loopback_only(make: Make) -> None:
    """Without TLS a key would be shown to the network, so it is refused before any call."""
    with FalStandIn() as plain:
        publisher = make(host=plain.host, tls=False, ca_bundle=None)
        publisher.publish(REF, VALUE, None)
        publisher.close()
        assert plain.value("main", REF.name) == VALUE.reveal()
    for host in ("localhost", "127.0.0.1:50051", "[::1]:50051"):
        make(host=host, tls=False)
    for host in ("api.alpha.fal.ai", "192.0.2.1:443", "localhost.example.com"):
        with pytest.raises(Misconfigured, match="loopback only"):
            make(host=host, tls=False)


@pytest.mark.parametrize(
    "host", ["", "https://api.alpha.fal.ai", "a b", "a:port", "a/b", "user@a", "a\n", "a:70000"]
)
def test_a_host_that_is_none_is_refused(make: Make, host: str) -> None:
    """The address is `name` or `name:port`, and the message says so."""
    with pytest.raises(Misconfigured, match="write `name` or `name:port`"):
        make(host=host)


# Many at once


def test_writes_to_one_secret_go_one_after_the_other(
    fal: FalStandIn, publisher: FalPublisher
) -> None:
    """A late older value cannot cover a newer one: the next is sent when the last is answered."""
    fal.slow(0.1)
    with futures.ThreadPoolExecutor(4) as pool:
        values = [SecretValue(f"value {n}") for n in range(4)]
        list(pool.map(lambda value: publisher.publish(REF, value, None), values))

    begun = [call.at for call in fal.calls]
    done = [write.at for write in fal.writes]
    assert all(start >= end for start, end in zip(begun[1:], done, strict=False))
    assert len(done) == 4


def test_a_write_that_hangs_holds_back_only_its_own_secret(fal: FalStandIn, make: Make) -> None:
    """Other secrets and other environments are written meanwhile."""
    publisher = make(deadline=3.0)
    fal.hang(times=1)
    with futures.ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(publisher.publish, REF, VALUE, None)
        _until(lambda: len(fal.calls) == 1)
        publisher.publish(SecretRef("default", "staging", REF.name), VALUE, None)
        publisher.publish(SecretRef("default", "main", "OTHER"), VALUE, None)
        assert not hanging.done()
        publisher.close()
        assert isinstance(hanging.exception(5), Interrupted)


def test_waiting_for_earlier_writes_is_part_of_the_deadline(fal: FalStandIn, make: Make) -> None:
    """Four writes that queue behind a hanging server all give up in the time of one."""
    publisher = make(deadline=0.4)
    fal.hang()
    began = time.monotonic()
    with futures.ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(publisher.publish, REF, VALUE, None) for _ in range(4)]
        assert all(isinstance(write.exception(5), TimedOut) for write in writes)

    assert time.monotonic() - began < 1.2


def test_the_pace_halves_when_fal_says_it_is_too_much(
    fal: FalStandIn, make: Make, clock: ManualClock
) -> None:
    """After RESOURCE_EXHAUSTED the eleventh write of a second waits for the next."""
    publisher = make(clock=clock)
    fal.fail(StatusCode.RESOURCE_EXHAUSTED, times=1)
    with pytest.raises(Throttled):
        publisher.publish(REF, VALUE, None)
    for _ in range(9):
        publisher.publish(REF, VALUE, None)
    began = time.monotonic()

    publisher.publish(REF, VALUE, None)

    assert time.monotonic() - began >= 0.9
    assert len(fal.writes) == 10


def test_closing_cuts_what_is_under_way(fal: FalStandIn, publisher: FalPublisher) -> None:
    """A stop ends calls and waits as `interrupted`, and nothing is sent afterwards."""
    fal.hang()
    with futures.ThreadPoolExecutor(2) as pool:
        writing = pool.submit(publisher.publish, REF, VALUE, None)
        waiting = pool.submit(publisher.publish, REF, VALUE, None)
        _until(lambda: len(fal.calls) == 1)
        publisher.close()
        assert isinstance(writing.exception(5), Interrupted)
        assert isinstance(waiting.exception(5), Interrupted)

    with pytest.raises(Interrupted):
        publisher.listed("main")
    assert len(fal.calls) == 1


def _until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        threading.Event().wait(0.01)
