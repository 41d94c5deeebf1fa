"""Promise 4: no value of a credential anywhere, whatever goes wrong and however much is logged."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from urllib.parse import quote, unquote

import grpc
import httpx
import psutil
import pytest
import structlog

from refresher import logs
from refresher.model import SecretValue
from refresher.sandbox.aws import ACCESS_KEY_ID, ACCOUNT, Key, Role
from refresher.sandbox.dockerhub import Login
from refresher.sandbox.fal import FalKey
from refresher.sandbox.http import Fault, Request, Response, StandIn
from refresher.sandbox.world import GAR_ACCOUNT, USER
from tests.canaries import Canaries
from tests.world import Running, World, wait_for

ROLE = f"arn:aws:iam::{ACCOUNT}:role/fal-pull"
KINDS = ("gar", "dockerhub", "oci")
TARGETS = ("ecr", *KINDS)

DAEMON = """
api_token = { file = "api-token" }
fingerprint_key = { env = "FINGERPRINT_KEY" }
notify = [{ env = "NOTIFY_URL" }]
heartbeat_url = { env = "HEARTBEAT_URL" }
"""
CHANGES = {
    "[daemon]": f"[daemon]{DAEMON}",
    'secret = "AWS_ECR_PASSWORD"': 'secret = "AWS_ECR_PASSWORD"\n'
    f'aws = {{ role_arn = "{ROLE}", external_id = {{ env = "EXTERNAL_ID" }} }}',
    'password = { env = "GHCR_TOKEN" }': 'password = { file = "oci-token" }',
}
#: The user's own files, which hold what they are for.
OWN = {"api-token", "gar-key.json", "dockerhub-token", "oci-token", "refresher.toml"}

#: Everything that prints, with as much as it can print.
COMMANDS = (
    ("config", "show"),
    ("config", "show", "--output", "json"),
    ("config", "check"),
    ("status",),
    ("status", "ecr"),
    ("status", "--output", "json"),
    ("history",),
    ("history", "gar"),
    ("history", "--output", "json"),
    ("check", "--within", "1h"),
    ("policy",),
    ("notify", "--test"),
)


#: What fails once AWS, Google and the notifier repeat what they are sent, and the daemon is gone.
FAILING = (("once",), ("token", "ecr"), ("notify", "--test", "--output", "json"), ("status", "ecr"))


class Receiver(StandIn):
    """Takes notices and heartbeats."""

    def handle(self, request: Request) -> Response:
        return Response(200)


class Aviary:
    """A world with a canary of each kind in it, and everything that it shows."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self.receiver = stack.enter_context(Receiver())
        self.canaries = Canaries()
        #: What was shown, by where.
        self.places: dict[str, bytes] = {}
        #: What each registry is sent: a user name and a password.
        self.logins: dict[StandIn, tuple[str, str]] = {}
        self._fill_aws()
        self._fill_fal()
        self.replace_static_values()
        self._configure()

    def _fill_aws(self) -> None:
        new, aws = self.canaries.new, self.world.aws
        secret, external_id, password = new("AWS secret key"), new("external id"), new("ECR")
        aws._keys[ACCESS_KEY_ID] = Key(secret, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/ci")
        aws.add_role(Role(ROLE, external_id=external_id))
        numbers = count()
        aws.make_password = lambda _end: f"{password}{next(numbers)}"
        self.logins[self.world.registry] = ("AWS", f"{password}1")
        self.world.extra |= {"AWS_SECRET_ACCESS_KEY": secret, "EXTERNAL_ID": external_id}

    def _fill_fal(self) -> None:
        key = FalKey("canary-key-id", SecretValue(self.canaries.new("FAL_KEY")))
        self.world.fal.allow(key)
        self.world.extra["FAL_KEY"] = key.reveal()

    def replace_static_values(self) -> None:
        """What a person does; so each is verified anew."""
        world, number = self.world, len(self.canaries.values)
        hub, oci = self.canaries.new(f"Docker Hub {number}"), self.canaries.new(f"OCI {number}")
        world.hub.logins[USER, hub] = Login.GOOD
        world.oci.accounts[USER] = oci
        key = json.dumps(world.google.add_key(GAR_ACCOUNT), indent=2)
        pem = json.loads(key)["private_key"].splitlines()
        self.canaries.also(f"GAR {number}", [line for line in pem[2:] if len(line) == 64])
        for name, value in (("dockerhub-token", hub), ("oci-token", oci), ("gar-key.json", key)):
            (world.directory / name).write_text(value)
        published = base64.b64encode(key.encode()).decode()
        self.logins |= {
            world.hub: (USER, hub),
            world.oci: (USER, oci),
            world.gar: ("_json_key_base64", published),
        }

    def _configure(self) -> None:
        world, new = self.world, self.canaries.new
        listen = f"127.0.0.1:{world.port}"
        policy = {"retry_first": "1s", "reverify_interval": "1s"}
        world.write_config(world.config, kinds=KINDS, listen=listen, policy=policy)
        text = world.config.read_text()
        for before, after in CHANGES.items():
            assert before in text
            text = text.replace(before, after)
        world.config.write_text(text)
        api_token, apprise = new("api token"), quote(new("Apprise URL"), safe="")
        (world.directory / "api-token").write_text(api_token)
        service = f"127.0.0.1:{self.receiver.port}"
        world.extra |= {
            "FINGERPRINT_KEY": new("fingerprint key"),
            "NOTIFY_URL": f"json://me:{apprise}@{service}/{apprise}?+X-Token={apprise}",
            "HEARTBEAT_URL": f"http://{service}/ping/{quote(new('heartbeat URL'), safe='')}",
            "GRPC_VERBOSITY": "debug",
            "REFRESHER_API_TOKEN": api_token,
        }

    # --- what is shown -------------------------------------------------------------------------

    def refresh(self, run: Running) -> set[str]:
        """Have all targets refreshed; the outcomes."""
        token = self.canaries.values["api token"]
        answer = httpx.post(
            f"{run.url}/api/v1/refresh?wait=30",
            json={},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        self.places[f"answer {len(self.places)}"] = answer.content
        assert answer.status_code == 200
        return {attempt["outcome"] for attempt in answer.json()["attempts"]}

    def look(self, when: str, run: Running) -> None:
        """Take down what the daemon shows now."""
        paths = ["/", "/metrics", "/readyz", "/livez", "/openapi.json", "/api/v1/targets"]
        paths += [f"/api/v1/targets/{name}{more}" for name in TARGETS for more in ("", "/attempts")]
        with httpx.Client(base_url=run.url) as client:
            for path in paths:
                answer = client.get(path)
                self.places[f"{path} {when}"] = answer.content
                self.places[f"headers of {path} {when}"] = str(answer.headers).encode()
        process = psutil.Process(run.process.pid)
        self.places[f"arguments {when}"] = str(process.cmdline()).encode()
        for child in process.children(recursive=True):
            self.places[f"child {child.pid}"] = str((child.cmdline(), child.environ())).encode()

    def say(self, *arguments: str) -> int:
        """A command; its exit code."""
        ended = self.world.cli(*arguments, "--debug")
        self.places[f"refresher {' '.join(arguments)}"] = (ended.stdout + ended.stderr).encode()
        return ended.returncode

    def say_all(self, commands: Sequence[Sequence[str]]) -> list[int]:
        """Several at once; their exit codes."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda command: self.say(*command), commands))

    def take_files(self) -> None:
        """All that was written."""
        for path in self.world.directory.rglob("*"):
            if path.is_file() and path.name not in OWN and "tls" not in path.parts:
                self.places[path.name] = path.read_bytes()

    def take_notices(self) -> None:
        """Bodies alone: the URL and its headers are the service's own."""
        for number, request in enumerate(self.receiver.requests):
            self.places[f"notice {number}"] = request.body

    # --- what goes wrong -----------------------------------------------------------------------

    def repeat(self, status: int) -> None:
        """Let each registry answer with the login that it is sent, in every way."""
        for service, (username, password) in self.logins.items():
            basic = base64.b64encode(f"{username}:{password}".encode()).decode()
            words = f"refused: {password} {quote(password, safe='')} Authorization: Basic {basic}"
            service.fail(repeated(words, status))

    def repeat_at_issuers(self, status: int) -> None:
        """Let AWS and Google, and the notifier, repeat what they were sent last."""
        aws, google = self.world.aws, self.world.google
        aws.error("AccessDeniedException", status, sent_to(aws))
        for service in (google, self.receiver):
            service.fail(repeated(sent_to(service), status))

    def repeat_at_fal(self) -> None:
        key = self.world.extra["FAL_KEY"]
        details = " ".join(password for _, password in self.logins.values())
        self.world.fal.fail(grpc.StatusCode.INVALID_ARGUMENT, f"bad key {key}: {details}")

    def break_wires(self, fault: Fault) -> None:
        for service in (*self.logins, self.world.aws, self.world.google, self.receiver):
            service.fail(fault)

    def mend(self) -> None:
        for service in (*self.logins, self.world.aws, self.world.google, self.receiver):
            service.mend()
        self.world.fal.mend()


def repeated(words: str, status: int) -> Response:
    """An answer in the shapes of all our peers."""
    document = {"message": words, "error": words, "error_description": words, "details": words}
    return Response.json({**document, "errors": [document]}, status)


def sent_to(service: StandIn) -> str:
    """What a peer was sent last, and what that says."""
    heard: list[str] = []
    for request in service.requests[-2:]:
        body = request.body.decode()
        heard += [*request.headers.values(), body, unquote(body), unquote(request.path)]
    return " ".join(heard)


TROUBLES: dict[str, Callable[[Aviary], None]] = {
    **{
        f"registries repeat the login in a {status}": lambda aviary, status=status: aviary.repeat(
            status
        )
        for status in (200, 400, 401, 403, 500)
    },
    "issuers repeat the request in a 400": lambda aviary: aviary.repeat_at_issuers(400),
    "issuers repeat the request in a 500": lambda aviary: aviary.repeat_at_issuers(500),
    "fal repeats key and values": Aviary.repeat_at_fal,
    "connections are reset": lambda aviary: aviary.break_wires(Fault.reset()),
    "answers are no HTTP": lambda aviary: aviary.break_wires(Fault.garbage()),
}


@pytest.fixture
def aviary() -> Iterator[Aviary]:
    """Nothing runs yet."""
    with World() as world, ExitStack() as stack:
        yield Aviary(world, stack)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_canary_is_anywhere(aviary: Aviary) -> None:
    """Daemon and commands with --debug through every trouble: log, page, API, metrics, state,
    notices, what commands print, tracebacks, arguments, and environment of children."""
    with aviary.world.daemon("--debug") as run:
        assert aviary.refresh(run) == {"refreshed"}
        aviary.look("in good times", run)
        assert_in_use(aviary)
        aviary.world.aws.passwords.revoke_all()
        wait_for(lambda: any(notices(aviary)), "a notice")
        for name, begin in TROUBLES.items():
            aviary.replace_static_values()
            begin(aviary)
            assert "failed" in aviary.refresh(run)
            aviary.look(f"while {name}", run)
            aviary.mend()
        assert set(aviary.say_all(COMMANDS)) <= {0, 1}
        assert run.stop() == 0
    aviary.repeat_at_issuers(400)
    assert aviary.say_all(FAILING) == [1, 1, 1, 3]
    aviary.take_notices()
    aviary.take_files()
    aviary.canaries.also("session token", session_tokens(aviary))
    aviary.canaries.also("access token", aviary.world.google._tokens)
    assert aviary.canaries.in_(aviary.places) == []
    assert_much_was_seen(aviary)


def session_tokens(aviary: Aviary) -> list[str]:
    """Of the roles that were assumed."""
    return [key.session_token for key in aviary.world.aws._keys.values() if key.session_token]


def notices(aviary: Aviary) -> Iterator[Request]:
    return (request for request in aviary.receiver.requests if b'"title"' in request.body)


def assert_in_use(aviary: Aviary) -> None:
    """Each value did what it is for, so that its absence means something."""
    world, values = aviary.world, aviary.canaries.values
    assert (world.secret or "").startswith(values["ECR"])
    for secret, service in (
        ("DOCKERHUB_TOKEN", world.hub),
        ("GHCR_TOKEN", world.oci),
        ("GOOGLE_AR_JSON_BASE64", world.gar),
    ):
        assert world.fal.value("main", secret) == aviary.logins[service][1]
    wait_for(lambda: values["heartbeat URL"] in heard(aviary.receiver), "a heartbeat")
    assert session_tokens(aviary)


def heard(service: StandIn) -> str:
    return " ".join(unquote(request.path) for request in service.requests)


def assert_much_was_seen(aviary: Aviary) -> None:
    """What may be shown is there: the places are those where a leak would be."""
    failures = {stage for target in TARGETS for stage in failed_stages(aviary, target)}
    assert {(target, "verify") for target in TARGETS} <= failures
    assert {(target, "publish") for target in TARGETS} <= failures
    assert ("ecr", "source") in failures
    seen = b"".join(aviary.places.values())
    for left_of_a_leak in (b"Traceback", b"***", b"withheld"):
        assert left_of_a_leak in seen
    assert {"refresher.db", "daemon.log"} <= set(aviary.places)


def failed_stages(aviary: Aviary, target: str) -> set[tuple[str, str]]:
    """Where attempts of a target failed, as the API told it."""
    path = f"/api/v1/targets/{target}/attempts "
    answers = [content for place, content in aviary.places.items() if place.startswith(path)]
    attempts = [attempt for answer in answers for attempt in json.loads(answer)["attempts"]]
    return {(target, attempt["failure"]["stage"]) for attempt in attempts if attempt["failure"]}


@pytest.mark.parametrize("shape", ["{}", "x{}y", "AWS:{}", "{:.30}"])
def test_the_search_finds_a_canary_in_every_form(shape: str) -> None:
    """Plain, in part, and encoded wherever it stands."""
    canaries = Canaries()
    text = shape.format(canaries.new("value"))
    encodings: list[Callable[[str], str]] = [
        str,
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
        lambda text: quote(text, safe=""),
        lambda text: json.dumps({"a": text}),
        lambda text: text.encode().hex(),
    ]
    places = {str(n): encode(text).encode() for n, encode in enumerate(encodings)}
    assert canaries.in_(places) == [f"value in {place}" for place in places]


def test_debug_is_for_our_own_log() -> None:
    """The libraries that log requests at that level, some with credentials, stay quiet."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    try:
        logs.configure("json", debug=True, stream=stream)
        for name in LOUD:
            logging.getLogger(name).debug("a request")
            logging.getLogger(name).info("a request")
        assert logging.getLogger("refresher").isEnabledFor(logging.DEBUG)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert stream.getvalue() == ""


LOUD = (
    "boto3",
    "botocore.auth",
    "botocore.endpoint",
    "botocore.hooks",
    "botocore.parsers",
    "urllib3.connectionpool",
    "requests",
    "httpx",
    "httpcore.http11",
    "grpc",
    "grpc._cython",
    "google.auth",
    "google.auth.transport",
    "apprise",
    "sqlalchemy.engine",
    "psycopg",
    "uvicorn.access",
    "asyncio",
)
