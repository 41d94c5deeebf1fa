"""A loopback stand-in for fal's control plane: the secrets RPCs of `controller.proto`.

What fal's own server does where its protocol is silent is unknown; each such choice is a switch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NoReturn, Self

import grpc
from isolate_proto import timestamp_from_datetime
from isolate_proto.configuration import GRPC_OPTIONS
from isolate_proto.controller_pb2 import (
    ListSecretsRequest,
    ListSecretsResponse,
    Secret,
    SetSecretRequest,
    SetSecretResponse,
)

from refresher.clock import Clock, SystemClock
from refresher.model import SecretValue
from refresher.sandbox.certificates import Certificates

SERVICE = "controller.IsolateController"
READ = "serverless:secrets:read"
WRITE = "serverless:secrets:write"

#: Values that are remembered of each secret.
HISTORY = 1000

#: Without it two servers may share a port, and a client reaches either.
_OWN_PORT = ("grpc.so_reuseport", 0)


@dataclass(frozen=True, slots=True)
class FalKey:
    """An API key that the stand-in knows."""

    id: str
    secret: SecretValue
    #: Names of what it may do.
    permissions: frozenset[str] = frozenset({READ, WRITE})

    def reveal(self) -> str:
        """`id:secret`, as a user puts it into FAL_KEY."""
        return f"{self.id}:{self.secret.reveal()}"


#: The key that works unless others are given.
SANDBOX_KEY = FalKey("sandbox-key-id", SecretValue("sandbox-key-secret"))


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A secret as it stands."""

    value: SecretValue
    created_time: datetime
    #: None where the account's default applies.
    default_exposed: bool | None


@dataclass(frozen=True, slots=True)
class HeldValue:
    """What a secret held from a moment on."""

    since: datetime
    #: None from when it was deleted.
    value: SecretValue | None


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came in, whatever became of it; values are not kept."""

    at: datetime
    #: Path of the method, as in `/controller.IsolateController/SetSecret`.
    method: str
    #: Names of the metadata.
    metadata: frozenset[str]
    #: Names of the fields that are present.
    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class Write:
    """A SetSecret that was applied; values are not kept."""

    at: datetime
    environment: str
    name: str
    #: False for a deletion.
    has_value: bool
    #: Whether the request said anything of `default_exposed`.
    default_exposed_present: bool


@dataclass(frozen=True, slots=True)
class _Trouble:
    """What is in the way of an answer."""

    act: Callable[[grpc.ServicerContext], None]
    #: `SetSecret`, `ListSecrets`, or None for both.
    method: str | None
    #: How many more times; None until `mend`.
    times: int | None
    #: Whether the request is carried out before the trouble starts.
    applied: bool = False


class FalStandIn:
    """fal's control plane on loopback, over TLS where certificates are given.

    Use it as a context manager. `fail`, `hang`, `slow` and `apply_then_fail` put trouble in the
    way of answers until `mend`; `calls` and `writes` keep what came in.
    """

    def __init__(
        self,
        certificates: Certificates | None = None,
        *,
        clock: Clock | None = None,
        keys: Iterable[FalKey] = (SANDBOX_KEY,),
        environments: Iterable[str] | None = None,
        created_time_moves: bool = True,
        on_write: Callable[[Write], None] | None = None,
        port: int = 0,
    ) -> None:
        #: Environments that exist; None where any does.
        self.environments = None if environments is None else frozenset(environments)
        #: Whether an overwrite moves `created_time`; what fal does is unknown.
        self.created_time_moves = created_time_moves
        #: Secrets by (environment, name).
        self.secrets: dict[tuple[str, str], StoredSecret] = {}
        self.calls: list[Call] = []
        self.writes: list[Write] = []
        self._certificates = certificates
        self._clock = clock or SystemClock()
        self._keys = {key.id: key for key in keys}
        self._on_write = on_write
        self._port = port
        self._history: dict[tuple[str, str], deque[HeldValue]] = {}
        self._trouble: _Trouble | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: grpc.Server | None = None

    @property
    def host(self) -> str:
        """`host:port`, as `fal.host` and FAL_GRPC_HOST take it."""
        return f"127.0.0.1:{self._port}"

    def value(self, environment: str, name: str) -> str | None:
        """What the secret holds now, None where there is none."""
        stored = self.secrets.get((environment, name))
        return None if stored is None else stored.value.reveal()

    def history(self, environment: str, name: str) -> tuple[HeldValue, ...]:
        """What the secret held, oldest first, the last thousand values."""
        with self._lock:
            return tuple(self._history.get((environment, name), ()))

    def allow(self, key: FalKey) -> None:
        """Accept a key from now on, or change what it may do."""
        self._keys[key.id] = key

    def revoke(self, key: FalKey) -> None:
        """Refuse a key from now on."""
        self._keys.pop(key.id, None)

    def fail(
        self,
        code: grpc.StatusCode,
        details: str = "",
        method: str | None = None,
        times: int | None = None,
    ) -> None:
        """Answer with a status the next `times` times, or until `mend`."""
        self._trouble = _Trouble(lambda context: _abort(context, code, details), method, times)

    def apply_then_fail(
        self, code: grpc.StatusCode, details: str = "", times: int | None = None
    ) -> None:
        """Apply each write and then answer with a status, so that its client cannot know."""
        self._trouble = _Trouble(
            lambda context: _abort(context, code, details), "SetSecret", times, applied=True
        )

    def hang(
        self, method: str | None = None, times: int | None = None, *, applied: bool = False
    ) -> None:
        """Take requests and never answer; with `applied` they are carried out first."""
        self._trouble = _Trouble(_hang, method, times, applied=applied)

    def slow(self, seconds: float, method: str | None = None, times: int | None = None) -> None:
        """Carry requests out `seconds` late, also those whose client has gone by then."""
        self._trouble = _Trouble(lambda context: self._wait(context, seconds), method, times)

    def mend(self) -> None:
        """Answer as usual again; requests that hang go on hanging."""
        self._trouble = None

    def start(self) -> None:
        """Listen; after a stop, on the same port."""
        self._closing.clear()
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=32, thread_name_prefix="fal-stand-in"),
            options=[*GRPC_OPTIONS, _OWN_PORT],
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self._port = self._listen(self._server)
        self._server.start()

    def stop(self) -> None:
        """Cut every connection and close the port. Secrets stay."""
        self._closing.set()
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def restart(self) -> None:
        """As a crash and a start look from outside: connections are cut, the port is the same."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self, server: grpc.Server) -> int:
        if self._certificates is None:
            return server.add_insecure_port(self.host)
        pair = (
            self._certificates.key_file.read_bytes(),
            self._certificates.certificate_file.read_bytes(),
        )
        return server.add_secure_port(self.host, grpc.ssl_server_credentials([pair]))

    def _handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        set_secret = grpc.unary_unary_rpc_method_handler(
            self._set_secret, SetSecretRequest.FromString, SetSecretResponse.SerializeToString
        )
        list_secrets = grpc.unary_unary_rpc_method_handler(
            self._list_secrets, ListSecretsRequest.FromString, ListSecretsResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(
            SERVICE, {"SetSecret": set_secret, "ListSecrets": list_secrets}
        )

    def _set_secret(
        self, request: SetSecretRequest, context: grpc.ServicerContext
    ) -> SetSecretResponse:
        self._admit("SetSecret", WRITE, request, context)
        trouble = self._next_trouble("SetSecret")
        if trouble is not None and not trouble.applied:
            trouble.act(context)
        self._apply(request)
        if trouble is not None and trouble.applied:
            trouble.act(context)
        return SetSecretResponse()

    def _list_secrets(
        self, request: ListSecretsRequest, context: grpc.ServicerContext
    ) -> ListSecretsResponse:
        self._admit("ListSecrets", READ, request, context)
        trouble = self._next_trouble("ListSecrets")
        if trouble is not None:
            trouble.act(context)
        return ListSecretsResponse(secrets=self._listed(_environment(request)))

    def _admit(
        self,
        method: str,
        permission: str,
        request: SetSecretRequest | ListSecretsRequest,
        context: grpc.ServicerContext,
    ) -> None:
        """Record a call, and end it unless its key may do this and its environment exists."""
        metadata = {name: str(value) for name, value in context.invocation_metadata()}
        fields = frozenset(field.name for field, _ in request.ListFields())
        with self._lock:
            path = f"/{SERVICE}/{method}"
            self.calls.append(Call(self._clock.now(), path, frozenset(metadata), fields))
        key = self._keys.get(metadata.get("auth-key-id", ""))
        if key is None or key.secret != SecretValue(metadata.get("auth-key", "")):
            _abort(context, grpc.StatusCode.UNAUTHENTICATED, "Invalid key")
        if permission not in key.permissions:
            details = f"Insufficient permissions: {permission} is required"
            _abort(context, grpc.StatusCode.PERMISSION_DENIED, details)
        if self.environments is not None and _environment(request) not in self.environments:
            details = f"Environment {_environment(request)} not found"
            _abort(context, grpc.StatusCode.NOT_FOUND, details)

    def _next_trouble(self, method: str) -> _Trouble | None:
        with self._lock:
            trouble = self._trouble
            if trouble is None or trouble.method not in {None, method} or trouble.times == 0:
                return None
            if trouble.times is not None:
                self._trouble = replace(trouble, times=trouble.times - 1)
            return trouble

    def _apply(self, request: SetSecretRequest) -> None:
        """Set the secret, or delete it where the request has no value."""
        now = self._clock.now()
        where = (_environment(request), request.name)
        value = SecretValue(request.value) if request.HasField("value") else None
        write = Write(
            now, *where, value is not None, default_exposed_present=_says_exposed(request)
        )
        with self._lock:
            if value is None:
                self.secrets.pop(where, None)
            else:
                self.secrets[where] = self._stored(self.secrets.get(where), request, value, now)
            self._history.setdefault(where, deque(maxlen=HISTORY)).append(HeldValue(now, value))
            self.writes.append(write)
        if self._on_write is not None:
            self._on_write(write)

    def _stored(
        self,
        before: StoredSecret | None,
        request: SetSecretRequest,
        value: SecretValue,
        now: datetime,
    ) -> StoredSecret:
        """The secret after a write. Absent `default_exposed` keeps what is stored."""
        exposed = request.default_exposed if _says_exposed(request) else None
        if before is None:
            return StoredSecret(value, now, exposed)
        return StoredSecret(
            value,
            now if self.created_time_moves else before.created_time,
            before.default_exposed if exposed is None else exposed,
        )

    def _listed(self, environment: str) -> list[Secret]:
        with self._lock:
            here = {name: s for (where, name), s in self.secrets.items() if where == environment}
        return [_shown(environment, name, here[name]) for name in sorted(here)]

    def _wait(self, context: grpc.ServicerContext, seconds: float) -> None:
        if self._closing.wait(seconds):
            _abort(context, grpc.StatusCode.UNAVAILABLE, "stopping")


def _environment(request: SetSecretRequest | ListSecretsRequest) -> str:
    """An absent environment is `main` (controller.proto)."""
    return request.environment_name or "main"


def _says_exposed(request: SetSecretRequest) -> bool:
    return bool(request.HasField("default_exposed"))


def _shown(environment: str, name: str, secret: StoredSecret) -> Secret:
    return Secret(
        name=name,
        created_time=timestamp_from_datetime(secret.created_time),
        environment_name=environment,
        default_exposed=secret.default_exposed,
    )


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("abort returned")


def _hang(context: grpc.ServicerContext) -> None:
    """Until the client gives up or the server stops."""
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait()
    _abort(context, grpc.StatusCode.CANCELLED, "the client has gone")
