"""fal's control plane: writes a value to a secret over gRPC (isolate-proto, `controller.proto`).

The protocol has no read, no version and no compare-and-set, and an absent value deletes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import grpc
from isolate_proto.controller_pb2 import ListSecretsRequest, Secret, SetSecretRequest
from isolate_proto.controller_pb2_grpc import IsolateControllerStub

from refresher import __version__
from refresher.clock import Clock
from refresher.deadline import CALL_SECONDS
from refresher.errors import (
    Failure,
    Interrupted,
    InvalidCredential,
    InvalidResponse,
    Misconfigured,
    Throttled,
    TimedOut,
)
from refresher.model import ListedSecret, SecretRef, SecretValue
from refresher.publish.pace import WritePace
from refresher.publish.statuses import SUSPECT, Operation, Status, failure_of
from refresher.references import Reference

DEFAULT_HOST = "api.alpha.fal.ai"
DEFAULT_PORT = 443

#: Permissions as fal names them.
READ = "serverless:secrets:read"
WRITE = "serverless:secrets:write"

#: Names become environment variables; fal states no rule of its own.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: What gRPC takes in metadata, less white space, which no key has.
_KEY_PART = re.compile(r"[!-~]+")

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.enable_retries", 0),  # the policy retries
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.client_idle_timeout_ms", 30_000),  # hours lie between writes: leave nothing to go dead
    ("grpc.primary_user_agent", f"refresher/{__version__}"),
)


@dataclass(frozen=True, slots=True)
class _Key:
    """An API key, taken apart."""

    id: str
    secret: SecretValue

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("auth-key", self.secret.reveal()), ("auth-key-id", self.id))


class FalPublisher:
    """Writes to the secrets of one fal account. Safe to use from many threads."""

    def __init__(
        self,
        account: str,
        key: Reference,
        *,
        host: str = DEFAULT_HOST,
        tls: bool = True,
        ca_bundle: Path | None = None,
        clock: Clock,
        deadline: float = CALL_SECONDS,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`host` is `name` or `name:port`; `deadline` is the seconds that a call takes in all.

        Raises `Misconfigured` for a host that is none, and for plain text beyond loopback.
        """
        self._account = account
        self._key = key
        self._host = host
        self._clock = clock
        self._deadline = deadline
        self._environ = environ
        self._connection = _Connection(_address(host), tls=tls, ca_bundle=ca_bundle)
        self._pace = WritePace()
        self._turns: dict[tuple[str, str], threading.Lock] = {}

    def __repr__(self) -> str:
        return f"FalPublisher(account={self._account!r}, host={self._host!r}, key={self._key})"

    def publish(self, ref: SecretRef, value: SecretValue, default_exposed: bool | None) -> None:
        """Return once fal accepted the value.

        Writes to one secret go one after the other: a late older value must not cover a newer
        one. Raises a `Failure`; after `TimedOut` and `Unavailable` the value may stand or not.
        """
        request = _set_request(ref, value, default_exposed)
        operation = self._operation("SetSecret", f"writing {ref}", ref.environment, WRITE)
        until = self._clock.monotonic() + self._deadline
        with self._turn(ref, until):
            self._keep_pace()
            self._call(operation, request, until, value)

    def listed(self, environment: str) -> Sequence[ListedSecret]:
        """The secrets of one environment. Raises a `Failure`, `Forbidden` for a write-only key."""
        doing = f"listing the secrets of {environment}"
        operation = self._operation("ListSecrets", doing, environment, READ)
        request = ListSecretsRequest(environment_name=environment)
        response = self._call(operation, request, self._clock.monotonic() + self._deadline)
        try:
            return tuple(_listed(secret, environment) for secret in response.secrets)
        except (ValueError, OverflowError) as error:
            raise InvalidResponse(
                f"{operation.doing} failed: a created_time is out of range"
            ) from error

    def close(self) -> None:
        """Cut what is under way, which ends as `Interrupted`, and let the connection go."""
        self._connection.close()

    def _operation(self, method: str, doing: str, environment: str, permission: str) -> Operation:
        return Operation(
            method=method,
            doing=f"{doing} at {self._host}",
            environment=environment,
            permission=permission,
            key=str(self._key),
            seconds=self._deadline,
        )

    @contextmanager
    def _turn(self, ref: SecretRef, until: float) -> Iterator[None]:
        turn = self._turns.setdefault((ref.environment, ref.name), threading.Lock())
        if not turn.acquire(timeout=max(0.0, until - self._clock.monotonic())):
            raise TimedOut(
                f"writing {ref} at {self._host} did not begin within {self._deadline:g} s:"
                " an earlier write is still under way"
            )
        try:
            yield
        finally:
            turn.release()

    def _keep_pace(self) -> None:
        wait = self._pace.reserve(self._clock.monotonic())
        if wait > 0:
            self._connection.closed.wait(wait)

    def _call(
        self,
        operation: Operation,
        request: SetSecretRequest | ListSecretsRequest,
        until: float,
        value: SecretValue | None = None,
    ) -> Any:
        key = _key(self._key.read(self._environ), self._key)
        link = self._connection.link()
        seconds = max(0.0, until - self._clock.monotonic())
        try:
            return getattr(link.stub, operation.method)(
                request, timeout=seconds, metadata=key.metadata()
            )
        except grpc.RpcError as error:
            status = Status(error.code(), error.details() or "")
        except ValueError:  # closed since; its text may hold the metadata
            status = Status(grpc.StatusCode.CANCELLED, "")
        # Raised out here, so that not even the context of the failure holds the library's error.
        raise self._failed(link, operation, status, [key.secret, *([value] if value else [])])

    def _failed(
        self, link: _Link, operation: Operation, status: Status, hidden: Sequence[SecretValue]
    ) -> Failure:
        """The failure of a call, after its lesson for the next one was drawn."""
        if self._connection.closed.is_set():
            return Interrupted(f"{operation.doing} was cut: we are stopping")
        if status.code in SUSPECT:
            self._connection.drop(link)
        failure = failure_of(status, operation, hidden)
        if isinstance(failure, Throttled):
            self._pace.slow_down(self._clock.monotonic())
        return failure


class _Link(NamedTuple):
    """A channel and the stub that speaks over it."""

    channel: grpc.Channel
    stub: IsolateControllerStub


class _Connection:
    """The one link of an account: made when first needed, kept until a call fails on it.

    A link that failed is left to whoever still uses it. The next one begins without the
    library's reconnect backoff, with the address resolved and the authorities read anew, and
    not on a connection that died without a word.
    """

    def __init__(self, address: str, *, tls: bool, ca_bundle: Path | None) -> None:
        loopback = _is_loopback(address)
        if not tls and not loopback:
            raise Misconfigured(
                f"fal at {address} without TLS would show the key to the network;"
                " plain text is for loopback only"
            )
        self.closed = threading.Event()
        self._address = address
        self._tls = tls
        self._ca_bundle = ca_bundle
        self._options = (*_OPTIONS, *_proxy_options(address))
        self._link: _Link | None = None
        self._lock = threading.Lock()

    def link(self) -> _Link:
        """Raises `Interrupted` once closed, `Misconfigured` where the CA bundle is unreadable."""
        with self._lock:
            if self.closed.is_set():
                raise Interrupted(f"nothing more is sent to {self._address}: we are stopping")
            if self._link is None:
                channel = self._channel()
                self._link = _Link(channel, IsolateControllerStub(channel))  # type: ignore[no-untyped-call]
            return self._link

    def drop(self, link: _Link) -> None:
        """Do not hand this link out again."""
        with self._lock:
            if self._link is link:
                self._link = None

    def close(self) -> None:
        with self._lock:
            self.closed.set()
            if self._link is not None:
                self._link.channel.close()
                self._link = None

    def _channel(self) -> grpc.Channel:
        if not self._tls:
            return grpc.insecure_channel(self._address, options=self._options)
        # Without a bundle gRPC takes GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, else its own roots.
        roots = None if self._ca_bundle is None else _read_bundle(self._ca_bundle)
        credentials = grpc.ssl_channel_credentials(roots)
        return grpc.secure_channel(self._address, credentials, options=self._options)


def _proxy_options(address: str) -> tuple[tuple[str, Any], ...]:
    """The proxy that the environment names, as for every other peer.

    gRPC itself knows no upper case and no ALL_PROXY, and takes one for plain HTTP, too. Raises
    `Misconfigured`.
    """
    proxies = getproxies()
    proxy = proxies.get("grpc") or proxies.get("https") or proxies.get("all")
    if not proxy or _is_loopback(address) or proxy_bypass(address):
        return (("grpc.enable_http_proxy", 0),)
    url = proxy if "://" in proxy else f"http://{proxy}"
    if not url.startswith("http://"):
        # It may hold a password.
        raise Misconfigured(
            "the proxy that HTTPS_PROXY or ALL_PROXY names cannot be used; write http://HOST:PORT"
        )
    return (("grpc.enable_http_proxy", 1), ("grpc.http_proxy", url))


def _read_bundle(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"cannot read the CA bundle {path}: {error.strerror}") from error


def _address(host: str) -> str:
    """`name:port`, with gRPC's usual port 443 where `host` has none."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        name, port = None, DEFAULT_PORT
    if name is None or parts.netloc != host or "@" in host or " " in host:
        raise Misconfigured(f"{host!r} is no address for fal; write `name` or `name:port`")
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _is_loopback(address: str) -> bool:
    name = urlsplit(f"//{address}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _key(value: SecretValue, where: Reference) -> _Key:
    """The parts of `id:secret`, split at the first colon. Raises `Misconfigured`."""
    key_id, _, secret = value.reveal().strip().partition(":")
    if _KEY_PART.fullmatch(key_id) and _KEY_PART.fullmatch(secret):
        return _Key(key_id, SecretValue(secret))
    raise Misconfigured(
        f"the fal key in {where} is not `id:secret` in printable ASCII without white space;"
        " put there what `fal keys create` printed"
    )


def _set_request(
    ref: SecretRef, value: SecretValue, default_exposed: bool | None
) -> SetSecretRequest:
    """A request that sets and cannot delete. Raises `Misconfigured` or `InvalidCredential`."""
    if not _NAME.fullmatch(ref.name):
        raise Misconfigured(
            f"{ref.name!r} is no name for a fal secret; it must match {_NAME.pattern}"
        )
    text = value.reveal()
    if (fault := _fault(text)) is not None:
        raise InvalidCredential(f"the value for {ref} {fault}; nothing was written")
    request = SetSecretRequest(
        name=ref.name,
        value=text,
        environment_name=ref.environment,
        default_exposed=default_exposed,
    )
    assert request.HasField("value")  # noqa: S101 - an absent value deletes the secret
    return request


def _fault(value: str) -> str | None:
    """What forbids to publish a value, None where nothing does."""
    if not value.strip():
        return "is empty"
    if "\0" in value:
        return "holds NUL"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return None


def _listed(secret: Secret, environment: str) -> ListedSecret:
    created = secret.created_time.ToDatetime(tzinfo=UTC)
    return ListedSecret(
        environment=secret.environment_name or environment,
        name=secret.name,
        created_time=created if secret.HasField("created_time") else None,
        default_exposed=secret.default_exposed if secret.HasField("default_exposed") else None,
    )
