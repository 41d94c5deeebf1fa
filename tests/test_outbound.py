"""The ways out: one table of every peer that is sent a credential, and what holds for all of them.

The peers have names that no resolver knows. A proxy on loopback is the only way to them, so that
it sees whatever leaves, and nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from refresher import config
from refresher.daemon import Daemon, Options
from refresher.errors import ConfigError, Failure, InvalidResponse, Misconfigured, Unavailable
from refresher.model import Credential, SecretValue
from refresher.notify.apprise import send
from refresher.notify.news import TEST
from refresher.references import Reference
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.fal import SANDBOX_KEY, FalStandIn
from refresher.sandbox.google import GoogleStandIn
from refresher.sandbox.http import Request, Response, StandIn
from refresher.sources.google_wire import _is_near
from tests import awsenv, googleenv
from tests.peers import ROOT
from tests.proxy import Proxy

pytestmark = [
    # The client by which botocore finds the credentials of a profile is left to the collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
    ),
    # Apprise imports a module that Python 3.11 calls deprecated.
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
]

NAMES = (
    "registry", "oci", "tokens", "hub", "ecr", "sts", "google", "certs", "heartbeat", "elsewhere",
)  # fmt: skip

CONFIG = """
[fal]
host = "fal.invalid"

[google]
token_uris = ["https://google.invalid/token"]
certs_url = "https://certs.invalid/x509"

[dockerhub]
auth_url = "https://hub.invalid/token"

[targets.ecr]
source = "ecr"
registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
registry_url = "https://registry.invalid"
secret = "ECR"

[targets.role]
source = "ecr"
registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
secret = "ROLE"
aws = { role_arn = "arn:aws:iam::123456789012:role/fal-pull" }

[targets.profile]
source = "ecr"
registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
secret = "PROFILE"
aws = { profile = "far" }

[targets.gar]
source = "gar"
registry = "us-central1-docker.pkg.dev"
username = "_json_key"
key = { env = "GAR_KEY" }
secret = "GAR"

[targets.hub]
source = "dockerhub"
username = "user"
password = { env = "PASSWORD" }
secret = "HUB"

[targets.oci]
source = "oci"
registry = "oci.invalid"
username = "user"
password = { env = "PASSWORD" }
secret = "OCI"

[daemon]
listen = "127.0.0.1:0"
state = "sqlite://"
heartbeat_url = { env = "HEARTBEAT" }
"""

#: botocore makes a client of its own to find the credentials of such a profile.
AWS_CONFIG = """
[profile far]
role_arn = arn:aws:iam::123456789012:role/far
source_profile = near

[profile near]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = secret
"""


# --- the table ---------------------------------------------------------------------------------


def obtain(name: str) -> Callable[[Daemon], object]:
    """Issue or read the credential of a target."""
    return lambda daemon: daemon._engine.targets[name].source.obtain(datetime.now(UTC))


def verify(name: str) -> Callable[[Daemon], object]:
    """Prove a credential of a target at its registry."""

    def go(daemon: Daemon) -> object:
        target, now = daemon._engine.targets[name], datetime.now(UTC)
        credential = Credential("AWS", SecretValue("password"), issued_at=now)
        if not target.renewable:
            credential = target.source.obtain(now)
        return target.verifier.verify(target.registry, credential, None)

    return go


def list_secrets(daemon: Daemon) -> object:
    return daemon._engine._publishers["default"].listed("main")


def beat(daemon: Daemon) -> None:
    daemon._heartbeat.tell(Reference(env="HEARTBEAT"))


def certificate(daemon: Daemon) -> object:
    """Ask for the public certificates of a key's account."""
    google = daemon._engine._parts.google
    return google.certificate_end(google.parse_key(Reference(env="GAR_KEY").read().reveal()))


def basic(request: Request) -> bool:
    return str(request.headers["Authorization"]).startswith("Basic ")


def signed(request: Request) -> bool:
    return str(request.headers["Authorization"]).startswith("AWS4-HMAC-SHA256 ")


@dataclass(frozen=True)
class Way:
    """A peer over HTTP."""

    #: Name below `.invalid`.
    peer: str
    #: What makes the daemon call it.
    go: Callable[[Daemon], object]
    #: Whether a request carries what the peer is to judge.
    carries: Callable[[Request], bool]


WAYS = {
    "registry": Way("registry", verify("ecr"), basic),
    "token service": Way("tokens", verify("oci"), basic),
    "Docker Hub": Way("hub", verify("hub"), basic),
    "ECR": Way("ecr", obtain("ecr"), signed),
    "STS": Way("sts", obtain("role"), signed),
    "STS of a profile": Way("sts", obtain("profile"), signed),
    "Google": Way("google", verify("gar"), lambda request: b"assertion=" in request.body),
    "Google's list": Way("certs", certificate, lambda request: "/x509/" in request.path),
    "heartbeat": Way("heartbeat", beat, lambda request: request.path == "/beat"),
}

each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Peers(StandIn):
    """All of them: they are told apart by `Host`."""

    realm = "https://tokens.invalid/token"

    def handle(self, request: Request) -> Response:
        if request.headers["Host"] == "oci.invalid":
            return Response(401, b"", {"WWW-Authenticate": f'Bearer realm="{self.realm}"'})
        return Response.json({})

    def at(self, name: str) -> list[Request]:
        """What came in for a peer."""
        return [r for r in self.requests if r.headers["Host"] == f"{name}.invalid"]


@dataclass(frozen=True)
class Outside:
    """The peers, the way to them, and a daemon's environment."""

    peers: Peers
    fal: FalStandIn
    proxy: Proxy
    certificates: Certificates

    @contextmanager
    def daemon(self, *, trusting: bool = True) -> Iterator[Daemon]:
        """A daemon as `refresher run` makes it, that has not begun to run."""
        bundle = f'ca_bundle = "{self.certificates.ca_file}"\n' if trusting else ""
        made = config.parse(CONFIG + bundle, "test", os.environ)
        daemon = Daemon(lambda: made, Options())
        try:
            yield daemon
        finally:
            daemon._end()

    def go(self, way: Way, *, trusting: bool = True) -> Failure | None:
        """What became of the call; no peer says what it should, so many fail in the end."""
        with self.daemon(trusting=trusting) as daemon:
            return outcome(lambda: way.go(daemon))


def outcome(go: Callable[[], object]) -> Failure | None:
    try:
        go()
    except Failure as failure:
        return failure
    return None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority that only the bundle knows, and one certificate for all the peers."""
    names = [f"{name}.invalid" for name in (*NAMES, "fal")]
    return authority(tmp_path_factory.mktemp("tls"), datetime.now(UTC), names)


@pytest.fixture(scope="module")
def key() -> str:
    """A service-account key that is exchanged at `google.invalid`."""
    with GoogleStandIn() as google:
        google.add_account(googleenv.EMAIL)
        document = google.add_key(googleenv.EMAIL)
    return json.dumps({**document, "token_uri": "https://google.invalid/token"})


@pytest.fixture
def outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certificates: Certificates, key: str
) -> Iterator[Outside]:
    """The peers behind their proxy."""
    awsenv.isolate(monkeypatch, tmp_path)
    googleenv.isolate(monkeypatch, tmp_path)
    (tmp_path / "config").write_text(AWS_CONFIG)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        peers = stack.enter_context(Peers(certificates=certificates))
        fal = stack.enter_context(FalStandIn(certificates))
        ports = {f"{name}.invalid": peers.port for name in NAMES}
        ports["fal.invalid"] = int(fal.host.rpartition(":")[2])
        proxy = stack.enter_context(Proxy(ports))
        for name, value in {
            "HTTPS_PROXY": f"http://user:proxy-pw@{proxy.host}",
            "AWS_ENDPOINT_URL_ECR": "https://ecr.invalid",
            "AWS_ENDPOINT_URL_STS": "https://sts.invalid",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "FAL_KEY": SANDBOX_KEY.reveal(),
            "GAR_KEY": key,
            "PASSWORD": "password",
            "HEARTBEAT": "https://heartbeat.invalid/beat",
        }.items():
            monkeypatch.setenv(name, value)
        yield Outside(peers, fal, proxy, certificates)


# --- proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@each_way
def test_a_proxy_of_the_environment_is_used(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, way: Way, variable: str
) -> None:
    """With its login, and through a tunnel, so that it reads nothing; the bundle is trusted."""
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv(variable, f"http://user:proxy-pw@{outside.proxy.host}")
    outside.go(way)

    assert f"CONNECT {way.peer}.invalid:443" in outside.proxy.asked
    assert set(outside.proxy.logins) == {"Basic dXNlcjpwcm94eS1wdw=="}
    assert all(way.carries(request) for request in outside.peers.at(way.peer))
    assert outside.peers.at(way.peer)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "grpc_proxy"])
def test_fal_is_reached_through_the_same_proxy(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """gRPC by itself would look at lower-case variables alone."""
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setenv(variable, f"http://user:proxy-pw@{outside.proxy.host}")
    with outside.daemon() as daemon:
        assert list_secrets(daemon) == ()

    assert outside.proxy.asked == ["CONNECT fal.invalid:443"]
    assert outside.proxy.logins == ["Basic dXNlcjpwcm94eS1wdw=="]
    assert "auth-key" in outside.fal.calls[0].metadata


FAL = {"fal": Way("fal", list_secrets, lambda _: True)}


@pytest.mark.parametrize("way", {**WAYS, **FAL}.values(), ids={**WAYS, **FAL})
def test_no_proxy_leads_past_it(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """Where nobody is, in this test."""
    monkeypatch.setenv("NO_PROXY", ".invalid")
    assert isinstance(outside.go(way), Unavailable)
    assert outside.proxy.asked == []


# --- TLS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        pytest.param({}, id="as it is"),
        pytest.param(
            {
                "PYTHONHTTPSVERIFY": "0",
                "REQUESTS_CA_BUNDLE": "",
                "CURL_CA_BUNDLE": "",
                "AWS_CA_BUNDLE": "",
                "SSL_CERT_FILE": "",
                "SSL_CERT_DIR": "",
                "GIT_SSL_NO_VERIFY": "1",
                "NODE_TLS_REJECT_UNAUTHORIZED": "0",
            },
            id="switched off",
        ),
    ],
)
@pytest.mark.parametrize("way", {**WAYS, **FAL}.values(), ids={**WAYS, **FAL})
def test_an_unknown_certificate_gets_nothing(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, way: Way, switches: dict[str, str]
) -> None:
    """Without the bundle no peer is trusted, and no variable makes it so."""
    for name, value in switches.items():
        monkeypatch.setenv(name, value)
    assert outside.go(way, trusting=False) is not None
    assert outside.peers.requests == []
    assert outside.fal.calls == []


def test_no_setting_switches_verification_off() -> None:
    """`tls = false` is for loopback, and `verify` is about credentials."""
    keys = set(re.findall(r'"([a-z_]+)": \{', json.dumps(config.schema())))
    assert {key for key in keys if re.search("tls|ssl|cert|secure|verif|trust|ca_", key)} == {
        "tls",
        "verify",
        "reverify_interval",
        "certs_url",
        "ca_bundle",
    }


def test_no_code_switches_verification_off() -> None:
    """Whatever a library offers for that is not used."""
    switches = re.compile(
        r"verify\s*=\s*False|CERT_NONE|check_hostname|verify_mode|_create_unverified|assert_hostname"
        r"|ssl_target_name_override|disable_warnings"
    )
    found = [
        path for path in (ROOT / "refresher").rglob("*.py") if switches.search(path.read_text())
    ]
    assert found == []


def test_a_notifier_may_not_switch_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apprise has a parameter for that in every URL."""
    monkeypatch.setenv("URL", "jsons://127.0.0.1:9/?verify=no")
    with pytest.raises(Misconfigured, match="certificates"):
        send(Reference(env="URL"), TEST)


# --- plain HTTP --------------------------------------------------------------------------------


@pytest.fixture
def plain(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> Outside:
    """The same, where plain HTTP would go through the proxy, too, and so be seen."""
    monkeypatch.setenv("HTTP_PROXY", f"http://{outside.proxy.host}")
    return outside


@pytest.mark.parametrize(
    "setting",
    [
        'fal.tls = false\nfal.host = "fal.invalid"\nfal.key = { env = "FAL_KEY" }',
        'google.token_uris = ["http://google.invalid/token"]',
        'google.certs_url = "http://certs.invalid/x509"',
        'dockerhub.auth_url = "http://hub.invalid/token"',
        'dockerhub.api_url = "http://hub.invalid"',
        'targets.a = { source = "oci", registry_url = "http://oci.invalid" }',
    ],
)
def test_a_setting_names_no_plain_http_beyond_loopback(setting: str) -> None:
    """The configuration is refused whole."""
    with pytest.raises(ConfigError, match="loopback"):
        config.parse(setting, "test", os.environ)


@pytest.mark.parametrize("way", ["ECR", "STS", "STS of a profile"])
def test_aws_is_not_reached_over_plain_http(
    plain: Outside, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """boto3 would do it, by the environment or by a profile; a session's token is in each call."""
    for service in ("ECR", "STS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", f"http://{service.lower()}.invalid")
    failure = plain.go(WAYS[way])
    assert isinstance(failure, Misconfigured)
    assert "plain HTTP is for loopback only" in failure.message
    assert plain.proxy.asked == []


def test_google_is_not_reached_over_plain_http(
    plain: Outside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """google-auth would do it, where the file of a federation says so."""
    subject = tmp_path / "subject"
    subject.write_text("subject-token")
    federation = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/x",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "http://sts.invalid/v1/token",
        "credential_source": {"file": str(subject)},
    }
    path = googleenv.written(tmp_path / "federation.json", federation)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    text = CONFIG.replace('key = { env = "GAR_KEY" }', 'mode = "token"').replace(
        'username = "_json_key"\n', ""
    )
    made = config.parse(text, "test", os.environ)
    daemon = Daemon(lambda: made, Options())
    failure = outcome(lambda: obtain("gar")(daemon))
    daemon._end()

    assert isinstance(failure, Misconfigured)
    assert "sts.invalid is reached over plain HTTP" in failure.message
    assert plain.proxy.asked == []


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:80/x", True),
        ("http://localhost/x", True),
        ("http://metadata.google.internal/computeMetadata/v1/", True),
        ("http://169.254.169.254/latest/meta-data/", True),
        ("http://[fd00:ec2::254]/latest/meta-data/", True),
        ("http://10.0.0.1/x", False),
        ("http://metadata.google.internal.evil.invalid/x", False),
        ("http://127.0.0.1@evil.invalid/x", False),
        ("ftp://sts.invalid/x", False),
        ("http:///x", False),
    ],
)
def test_plain_http_is_for_this_machine_and_its_cloud(url: str, near: bool) -> None:
    """A metadata server speaks nothing else, and its packets do not leave the host."""
    assert _is_near(url) is near


# --- where a credential may go -----------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@each_way
def test_a_redirect_carries_nothing_away(outside: Outside, way: Way, status: int) -> None:
    """None is followed, wherever it leads."""

    location = {"Location": "https://elsewhere.invalid/token"}
    handle = outside.peers.handle
    outside.peers.handle = lambda request: (  # type: ignore[method-assign]
        Response(status, b"", location)
        if request.headers["Host"] == f"{way.peer}.invalid"
        else handle(request)
    )
    outside.go(way)
    assert len(outside.peers.at(way.peer)) == 1
    assert outside.peers.at("elsewhere") == []
    assert "CONNECT elsewhere.invalid:443" not in outside.proxy.asked


@pytest.mark.parametrize(
    "realm",
    [
        "http://tokens.invalid/token",
        "https://10.0.0.1/token",
        "https://169.254.169.254/token",
        "https://[fd00::1]/token",
        "https://127.0.0.1/token",
        "http://127.0.0.1/token",
        "https://localhost/token",
        "https://user:password@tokens.invalid/token",
        "ftp://tokens.invalid/token",
        "//tokens.invalid/token",
    ],
)
def test_a_realm_that_may_not_have_it_gets_nothing(plain: Outside, realm: str) -> None:
    """A registry that is in wrong hands names an address inside, or one that all can read."""
    plain.peers.realm = realm
    assert isinstance(plain.go(WAYS["token service"]), InvalidResponse)
    assert plain.proxy.asked == ["CONNECT oci.invalid:443"]
    assert [request.headers["Authorization"] for request in plain.peers.requests] == [None]


def test_a_key_that_names_another_token_service_is_not_exchanged(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A signed assertion sent there would be as good as a login."""
    monkeypatch.setenv(
        "GAR_KEY", json.dumps({**json.loads(key), "token_uri": "https://elsewhere.invalid/token"})
    )
    assert isinstance(outside.go(WAYS["Google"]), Misconfigured)
    assert outside.proxy.asked == []


def test_what_a_peer_gets_is_for_it_alone(outside: Outside) -> None:
    """No header or cookie of one peer is sent to another one."""
    with outside.daemon() as daemon:
        outside.peers.fail(Response(401, b"", {"Set-Cookie": "session=canary; Domain=invalid"}))
        for way in WAYS.values():
            outcome(lambda way=way: way.go(daemon))  # type: ignore[misc]
        outside.peers.mend()
        for way in WAYS.values():
            outcome(lambda way=way: way.go(daemon))  # type: ignore[misc]
    assert all(request.headers["Cookie"] is None for request in outside.peers.requests)
    assert all(r.headers["Proxy-Authorization"] is None for r in outside.peers.requests)
