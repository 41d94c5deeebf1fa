"""What an ECR source issues, and what it refuses to take for a token."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher.clock import Skews
from refresher.errors import InvalidCredential, InvalidResponse
from refresher.model import Source
from refresher.references import Reference
from refresher.sandbox.aws import SECRET_ACCESS_KEY, AwsStandIn, Role
from refresher.sandbox.http import Response
from refresher.sources.aws import Endpoint
from refresher.sources.ecr import (
    AwsClients,
    AwsSettings,
    EcrHost,
    EcrPublicSource,
    EcrSource,
    parse_host,
)
from tests.awsenv import HOST, ROLE, OffsetClock, isolate
from tests.peers import free_port, running, wait_for_port


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsStandIn]:
    """AWS on loopback, with a key for it in the environment and nothing else."""
    isolate(monkeypatch, tmp_path)
    with AwsStandIn() as stand_in:
        for name, value in stand_in.environ.items():
            monkeypatch.setenv(name, value)
        yield stand_in


def ecr(settings: AwsSettings | None = None, skews: Skews | None = None) -> EcrSource:
    host = parse_host(HOST)
    assert host is not None
    return EcrSource(host, settings or AwsSettings(), clock=OffsetClock(), skews=skews or Skews())


def now() -> datetime:
    return datetime.now(UTC)


# --- hosts -------------------------------------------------------------------------------------

HOSTS = [
    ("dkr.ecr.us-east-1.amazonaws.com", "us-east-1", "aws", False, False),
    ("dkr.ecr-fips.us-east-1.amazonaws.com", "us-east-1", "aws", True, False),
    ("dkr-ecr.us-east-1.on.aws", "us-east-1", "aws", False, True),
    ("dkr-ecr-fips.us-east-1.on.aws", "us-east-1", "aws", True, True),
    ("dkr.ecr.ap-southeast-2.amazonaws.com", "ap-southeast-2", "aws", False, False),
    ("dkr.ecr.mx-central-1.amazonaws.com", "mx-central-1", "aws", False, False),
    ("dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1", "aws-cn", False, False),
    ("dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", "cn-north-1", "aws-cn", False, True),
    ("dkr.ecr.us-gov-west-1.amazonaws.com", "us-gov-west-1", "aws-us-gov", False, False),
    ("dkr.ecr-fips.us-gov-east-1.amazonaws.com", "us-gov-east-1", "aws-us-gov", True, False),
    ("dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", "aws-eusc", False, False),
    ("dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", "aws-iso", False, False),
    ("dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", "aws-iso-b", False, False),
    ("dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", "aws-iso-e", False, False),
    ("dkr.ecr.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1", "aws-iso-f", False, False),
]


@pytest.mark.parametrize(("rest", "region", "partition", "fips", "dual_stack"), HOSTS)
def test_every_form_of_host_tells_region_partition_and_endpoint(
    rest: str, region: str, partition: str, fips: bool, dual_stack: bool
) -> None:
    """Account, region, partition and kind of endpoint are read off the host."""
    host = f"123456789012.{rest}"
    expected = EcrHost(host, "123456789012", region, partition, fips, dual_stack)
    assert parse_host(host) == expected
    assert parse_host(host.upper()) == expected


@pytest.mark.parametrize(
    "host",
    [
        "",
        "public.ecr.aws",
        "docker.io",
        "12345678901.dkr.ecr.us-east-1.amazonaws.com",
        "1234567890123.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.dkr.ecr.amazonaws.com",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com.evil.example",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com\n",
        "https://123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com:443",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com/app",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com.cn",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com",
        "123456789012.dkr.ecr.us-east-1.c2s.ic.gov",
        "123456789012.dkr.ecr.us-iso-east-1.amazonaws.com",
        "123456789012.dkr.ecr.nowhere.amazonaws.com",
        "١٢٣٤٥٦٧٨٩٠١٢.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.d\u212ar.ecr.us-east-1.amazonaws.com",  # KELVIN SIGN, k in lower case
    ],
)
def test_what_is_no_ecr_host_is_none(host: str) -> None:
    """A near miss, or a suffix of another partition, is not an ECR host."""
    assert parse_host(host) is None


_NEARLY = st.tuples(st.sampled_from(HOSTS), st.integers(0, 60), st.text(max_size=2)).map(
    lambda near: f"123456789012.{near[0][0]}"[: near[1]] + near[2] + near[0][0][near[1] :]
)


@given(st.text() | _NEARLY)
def test_any_text_is_an_ecr_host_or_none(text: str) -> None:
    """What is one can be nothing but a host: no port, path or other suffix gets the token."""
    found = parse_host(text)
    if found is not None:
        assert found.host == text.lower()
        assert re.fullmatch(r"\d{12}\.dkr[.-]ecr[a-z0-9._-]+", found.host, re.ASCII)
        assert found.region in found.host
        assert found.account.isascii()


@pytest.mark.parametrize(
    ("rest", "api"),
    [
        ("dkr.ecr.us-east-1.amazonaws.com", "api.ecr.us-east-1.amazonaws.com"),
        ("dkr.ecr-fips.us-east-1.amazonaws.com", "ecr-fips.us-east-1.amazonaws.com"),
        ("dkr-ecr.us-east-1.on.aws", "ecr.us-east-1.api.aws"),
        ("dkr-ecr-fips.us-east-1.on.aws", "ecr-fips.us-east-1.api.aws"),
        ("dkr.ecr.cn-north-1.amazonaws.com.cn", "api.ecr.cn-north-1.amazonaws.com.cn"),
        ("dkr.ecr.eusc-de-east-1.amazonaws.eu", "api.ecr.eusc-de-east-1.amazonaws.eu"),
    ],
)
def test_the_api_endpoint_matches_the_host(
    rest: str, api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Region, partition, FIPS and dual-stack of the registry choose the API host."""
    isolate(monkeypatch, tmp_path)
    host = parse_host(f"123456789012.{rest}")
    assert host is not None
    client = AwsClients().at(Endpoint("ecr", host.region, None, host.fips, host.dual_stack))
    assert client.meta.endpoint_url == f"https://{api}"
    client.close()


# --- what is issued ----------------------------------------------------------------------------


def test_a_token_becomes_a_credential(aws: AwsStandIn) -> None:
    """Username, password and end of life are those that AWS issued, in UTC."""
    before = now()
    credential = ecr().obtain(before)
    assert credential.username == "AWS"
    assert aws.passwords.judge(credential.password.reveal(), now()) == "good"
    assert credential.issued_at == before
    assert credential.expires_at is not None
    assert credential.expires_at.tzinfo is UTC
    assert timedelta(0) <= credential.expires_at - before - aws.token_life < timedelta(seconds=9)


def test_ecr_public_speaks_its_own_shape(aws: AwsStandIn) -> None:
    """The public registry is asked in us-east-1 and answers with one object."""
    source = EcrPublicSource(AwsSettings(), clock=OffsetClock(), skews=Skews())
    password = source.obtain(now()).password.reveal()
    issued = aws.passwords.issued(password)
    assert issued is not None
    assert (issued.service, issued.region) == ("ecr-public", "us-east-1")


def test_the_sources_fit_the_seam() -> None:
    """Both are renewable sources of the model."""
    sources: list[Source] = [
        ecr(),
        EcrPublicSource(AwsSettings(), clock=OffsetClock(), skews=Skews()),
    ]
    assert all(source.renewable for source in sources)


def test_registry_ids_are_never_sent(aws: AwsStandIn) -> None:
    """The deprecated field stays out of the request."""
    ecr().obtain(now())
    assert aws.requests[-1].body == b"{}"


def test_the_password_is_kept_to_the_letter(aws: AwsStandIn) -> None:
    """Colons, white space and letters beyond ASCII belong to the password."""
    aws.raw_token = base64.b64encode("AWS:a:b: ü=".encode()).decode()
    assert ecr().obtain(now()).password.reveal() == "a:b: ü="


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("not base64!", "not base64"),
        (base64.b64encode(b"\xff\xfe").decode(), "not base64 of UTF-8"),
        (base64.b64encode(b"AWS").decode(), "empty password"),
        (base64.b64encode(b"AWS:").decode(), "empty password"),
        (base64.b64encode(b"root:hunter2").decode(), "user AWS"),
        (base64.b64encode(b"aws:hunter2").decode(), "user AWS"),
        (base64.b64encode(b":hunter2").decode(), "user AWS"),
        (base64.b64encode(b"hunter2").decode(), "user AWS"),
        ("", "user AWS"),
    ],
)
def test_a_token_that_is_none_is_an_invalid_credential(
    aws: AwsStandIn, token: str, words: str
) -> None:
    """What cannot be decoded into `AWS:password` is refused, and not quoted."""
    aws.raw_token = token
    with pytest.raises(InvalidCredential, match=words) as caught:
        ecr().obtain(now())
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("size", [4096, 64 * 1024, 1024 * 1024])
def test_no_length_is_assumed(aws: AwsStandIn, size: int) -> None:
    """AWS states no maximum; whether it can be published is judged before the write."""
    aws.raw_token = base64.b64encode(b"AWS:" + b"x" * size).decode()
    assert len(ecr().obtain(now()).password.reveal()) == size


@pytest.mark.parametrize(
    ("expires_at", "words"),
    [
        ("missing", "without expiresAt"),
        (datetime(2015, 1, 1, tzinfo=UTC), "expired when it was issued: .*2015-01-01T00:00:00Z"),
        (datetime.now(UTC) + timedelta(days=30), "more than 13 hours"),
        (datetime.now(UTC) + timedelta(hours=14), "more than 13 hours"),
    ],
)
def test_an_end_of_life_that_cannot_be_is_an_invalid_credential(
    aws: AwsStandIn, expires_at: datetime, words: str
) -> None:
    """Missing, past or more than 13 hours ahead: never taken for fresh."""
    aws.expires_at_override = expires_at
    with pytest.raises(InvalidCredential, match=words):
        ecr().obtain(now())


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[]",
        "null",
        '"word"',
        "<html>",
        "\xff",
        '{"authorizationData": []}',
        '{"authorizationData": 5}',
        '{"authorizationData": [null]}',
        '{"authorizationData": ["word"]}',
        '{"authorizationData": [{"authorizationToken": "QVdTOng=", "expiresAt": "soon"}]}',
        '{"authorizationData": [{"authorizationToken": "QVdTOng=", "expiresAt": 1e30}]}',
    ],
)
def test_an_answer_of_another_shape_is_an_invalid_response(aws: AwsStandIn, body: str) -> None:
    """Whatever a proxy puts in AWS's place, it is one clear failure."""
    aws.fail(Response(200, body.encode("latin-1"), {"Content-Type": "application/x-amz-json-1.1"}))
    with pytest.raises(InvalidResponse, match=r"ecr\.eu-west-1"):
        ecr().obtain(now())


# --- clocks and sessions -----------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "shifted"), [(-200, True), (0, False), (30, False), (200, True)])
def test_life_is_counted_on_the_issuers_clock(aws: AwsStandIn, ahead: int, shifted: bool) -> None:
    """With clocks over a minute apart, 12 hours stay 12 hours by our clock."""
    aws.clock = OffsetClock(timedelta(seconds=ahead))
    skews, asked = Skews(), now()
    credential = ecr(skews=skews).obtain(asked)
    assert credential.expires_at is not None
    extra = (credential.expires_at - asked - aws.token_life).total_seconds()
    assert extra == pytest.approx(0 if shifted else ahead, abs=5)
    assert skews.seconds()["ecr.eu-west-1"] == pytest.approx(ahead, abs=5)


@pytest.mark.parametrize(("bound", "life"), [(True, 900), (False, 12 * 3600)])
def test_session_bound_takes_the_end_of_the_session(
    aws: AwsStandIn, bound: bool, life: int
) -> None:
    """With `session_bound` a token of a 15-minute session is held to live 15 minutes."""
    aws.add_role(Role(ROLE))
    settings = AwsSettings(role_arn=(ROLE,), duration=timedelta(minutes=15), session_bound=bound)
    asked = now()
    credential = ecr(settings).obtain(asked)
    assert credential.expires_at is not None
    assert (credential.expires_at - asked).total_seconds() == pytest.approx(life, abs=8)


# --- sharing -----------------------------------------------------------------------------------


def source(rest: str = "dkr.ecr.eu-west-1.amazonaws.com", account: int = 1, **aws: object) -> str:
    host = parse_host(f"{account:012}.{rest}")
    assert host is not None
    settings = AwsSettings(**aws)  # type: ignore[arg-type]
    return EcrSource(host, settings, clock=OffsetClock(), skews=Skews()).share_key


def test_one_principal_and_region_share_a_token() -> None:
    """Registries of other accounts, FIPS and dual-stack hosts need no token of their own."""
    assert (
        source()
        == source(account=2)
        == source("dkr.ecr-fips.eu-west-1.amazonaws.com")
        == source("dkr-ecr.eu-west-1.on.aws")
    )


def test_all_else_splits_the_share_key() -> None:
    """Region, partition, kind and each AWS setting make another credential."""
    name = Reference(env="A")
    settings: list[dict[str, object]] = [
        {"profile": "a"},
        {"role_arn": (ROLE,)},
        {"role_arn": (ROLE, ROLE)},
        {"external_id": name},
        {"external_id": Reference(env="B")},
        {"external_id": Reference(file=Path("A"))},
        {"session_name": "other"},
        {"duration": timedelta(minutes=15)},
        {"web_identity_token_file": Path("A")},
        {"access_key_id": name},
        {"secret_access_key": name},
        {"session_token": name},
        {"session_bound": True},
    ]
    public = EcrPublicSource(AwsSettings(), clock=OffsetClock(), skews=Skews()).share_key
    keys = [
        source(),
        source("dkr.ecr.us-east-1.amazonaws.com"),
        source("dkr.ecr.cn-north-1.amazonaws.com.cn"),
        public,
        *(source(**setting) for setting in settings),
    ]
    assert len(set(keys)) == len(keys)


def test_the_share_key_names_references_and_holds_no_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key goes to logs and status: names only."""
    monkeypatch.setenv("EXT", "hunter2")
    key = source(external_id=Reference(env="EXT"))
    assert "$EXT" in key
    assert "hunter2" not in key


def test_nothing_shows_a_secret(aws: AwsStandIn) -> None:
    """Neither the credential nor the source prints what it holds."""
    settings = AwsSettings(
        access_key_id=Reference(env="AWS_ACCESS_KEY_ID"),
        secret_access_key=Reference(env="AWS_SECRET_ACCESS_KEY"),
    )
    used = ecr(settings)
    credential = used.obtain(now())
    shown = f"{credential!r} {credential} {used!r} {settings!r} {vars(used)!r}"
    assert credential.password.reveal() not in shown
    assert SECRET_ACCESS_KEY not in shown


def test_sources_share_clients(aws: AwsStandIn) -> None:
    """Given the same clients, forty sources with forty roles make two of them."""
    clients = AwsClients()
    host = parse_host(HOST)
    assert host is not None
    for number in range(40):
        role = f"arn:aws:iam::123456789012:role/r{number}"
        aws.add_role(Role(role))
        settings = AwsSettings(role_arn=(role,))
        EcrSource(host, settings, clock=OffsetClock(), skews=Skews(), clients=clients).obtain(now())
    ends = [Endpoint("ecr", "eu-west-1", None), Endpoint("sts", "eu-west-1", None)]
    assert set(clients._clients) == set(ends)
    assert aws.calls == {"AssumeRole": 40, "GetAuthorizationToken": 40}


# --- an independent AWS ------------------------------------------------------------------------


def test_with_moto_a_role_is_assumed_and_its_token_of_2015_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """moto's STS takes our AssumeRole; its ECR says 2015, which is no credential."""
    isolate(monkeypatch, tmp_path)
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAMOTO")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    log = tmp_path / "moto.log"
    with running(command, log):
        wait_for_port(port, 30)
        settings = AwsSettings(role_arn=("arn:aws:iam::210987654321:role/pull",))
        with pytest.raises(InvalidCredential, match="2015-01-01"):
            ecr(settings).obtain(now())
    assert log.read_text().count('"POST / HTTP/1.1" 200') == 2
