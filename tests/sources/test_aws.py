"""Who a source is at AWS, and what becomes of each way in which AWS can say no."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresher.clock import Skews
from refresher.errors import (
    ClockSkewed,
    Failure,
    Forbidden,
    InvalidResponse,
    Misconfigured,
    Throttled,
    TimedOut,
    TlsFailure,
    Unauthorized,
    Unavailable,
)
from refresher.references import Reference
from refresher.sandbox.aws import ACCESS_KEY_ID, SECRET_ACCESS_KEY, AwsStandIn, Role
from refresher.sandbox.http import Fault, Response
from refresher.sources.ecr import AwsSettings, EcrSource, parse_host
from tests.awsenv import FAR_ROLE, HOST, ROLE, OffsetClock, isolate
from tests.peers import free_port

JSON = {"Content-Type": "application/x-amz-json-1.1"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsStandIn]:
    """AWS on loopback, with a key for it in the environment and nothing else."""
    isolate(monkeypatch, tmp_path)
    with AwsStandIn() as stand_in:
        for name, value in stand_in.environ.items():
            monkeypatch.setenv(name, value)
        yield stand_in


@pytest.fixture
def keyless(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> AwsStandIn:
    """The same AWS with no key in the environment."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    return aws


def ecr(*, skews: Skews | None = None, seconds: float = 8.0, **settings: object) -> EcrSource:
    host = parse_host(HOST)
    assert host is not None
    return EcrSource(
        host,
        AwsSettings(**settings),  # type: ignore[arg-type]
        clock=OffsetClock(),
        skews=skews or Skews(),
        call_seconds=seconds,
    )


def obtain(source: EcrSource) -> str:
    return source.obtain(datetime.now(UTC)).password.reveal()


def refusal(source: EcrSource) -> Failure:
    with pytest.raises(Failure) as caught:
        obtain(source)
    assert "\n" not in str(caught.value)
    return caught.value


def signers(aws: AwsStandIn) -> list[str]:
    """The access keys that signed the calls so far, in order."""
    found = (request.headers.get("Authorization", "") for request in aws.requests)
    return [value.partition("Credential=")[2].partition("/")[0] for value in found]


# --- who we are --------------------------------------------------------------------------------


def test_the_environment_is_found(aws: AwsStandIn) -> None:
    """With nothing configured boto3's default chain is used."""
    obtain(ecr())
    assert signers(aws) == [ACCESS_KEY_ID]


def test_a_key_by_reference_is_read_anew_each_time(keyless: AwsStandIn, tmp_path: Path) -> None:
    """A rotated key file is picked up by the next token."""
    key, secret = tmp_path / "id", tmp_path / "secret"
    key.write_text("AKIAOLD\n")
    secret.write_text("old\n")
    source = ecr(access_key_id=Reference(file=key), secret_access_key=Reference(file=secret))
    assert isinstance(refusal(source), Unauthorized)
    key.write_text(ACCESS_KEY_ID)
    secret.write_text(SECRET_ACCESS_KEY)
    obtain(source)
    assert signers(keyless) == ["AKIAOLD", ACCESS_KEY_ID]


def test_a_session_token_by_reference_is_sent(
    keyless: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three parts of a temporary key are used."""
    monkeypatch.setenv("K", ACCESS_KEY_ID)
    monkeypatch.setenv("S", SECRET_ACCESS_KEY)
    monkeypatch.setenv("T", "session")
    parts = {"access_key_id": "K", "secret_access_key": "S", "session_token": "T"}
    refusal(ecr(**{name: Reference(env=env) for name, env in parts.items()}))
    assert keyless.requests[-1].headers["X-Amz-Security-Token"] == "session"


@pytest.mark.parametrize("half", ["access_key_id", "secret_access_key"])
def test_half_a_key_is_a_configuration_error(aws: AwsStandIn, half: str) -> None:
    """It never falls back to another identity."""
    failure = refusal(ecr(**{half: Reference(env="AWS_ACCESS_KEY_ID")}))
    assert isinstance(failure, Misconfigured)
    assert not aws.requests


def test_a_profile_is_read_anew_each_time(keyless: AwsStandIn, tmp_path: Path) -> None:
    """A key that was rotated in ~/.aws/credentials is picked up by the next token."""
    file = tmp_path / "credentials"
    file.write_text("[work]\naws_access_key_id = AKIAOLD\naws_secret_access_key = old\n")
    source = ecr(profile="work")
    assert isinstance(refusal(source), Unauthorized)
    file.write_text(
        f"[work]\naws_access_key_id = {ACCESS_KEY_ID}\n"
        f"aws_secret_access_key = {SECRET_ACCESS_KEY}\n"
    )
    obtain(source)
    assert signers(keyless) == ["AKIAOLD", ACCESS_KEY_ID]


def test_a_profile_with_a_role_assumes_it_for_each_token(aws: AwsStandIn, tmp_path: Path) -> None:
    """No session is kept from one token to the next."""
    aws.add_role(Role(ROLE))
    (tmp_path / "config").write_text(
        f"[profile pull]\nrole_arn = {ROLE}\nsource_profile = work\n"
        f"[profile work]\naws_access_key_id = {ACCESS_KEY_ID}\n"
        f"aws_secret_access_key = {SECRET_ACCESS_KEY}\n"
    )
    source = ecr(profile="pull")
    obtain(source)
    obtain(source)
    assert aws.calls == {"AssumeRole": 2, "GetAuthorizationToken": 2}
    assert len(set(signers(aws))) == 3  # the user's key and two sessions


def test_each_token_comes_from_a_freshly_assumed_role(aws: AwsStandIn) -> None:
    """A token may die with its session, so each gets a new one, assumed in the host's region."""
    aws.add_role(Role(ROLE))
    source = ecr(role_arn=(ROLE,), session_name="fal")
    first, second = obtain(source), obtain(source)
    assert first != second
    assert aws.calls == {"AssumeRole": 2, "GetAuthorizationToken": 2}
    user, one, again, two = signers(aws)
    assert user == again == ACCESS_KEY_ID
    assert one != two
    assert "/eu-west-1/sts/" in aws.requests[0].headers["Authorization"]
    assert b"RoleSessionName=fal" in aws.requests[0].body


def test_roles_are_chained_with_external_id_and_duration(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each role is assumed from the one before; the last one's account gets the token."""
    monkeypatch.setenv("EXT", "tenant-7")
    aws.add_role(Role(ROLE))
    aws.add_role(Role(FAR_ROLE, external_id="tenant-7", trusts=frozenset({ROLE})))
    source = ecr(
        role_arn=(ROLE, FAR_ROLE),
        external_id=Reference(env="EXT"),
        duration=timedelta(minutes=30),
    )
    issued = aws.passwords.issued(obtain(source))
    assert issued is not None
    assert (issued.account, issued.region) == ("210987654321", "eu-west-1")
    first, second = (request.body for request in aws.requests[:2])
    assert b"DurationSeconds" not in first
    assert b"DurationSeconds=1800" in second


def test_a_chained_session_of_over_an_hour_is_a_configuration_error(aws: AwsStandIn) -> None:
    """AWS's hard limit of role chaining is passed on in its own words."""
    aws.add_role(Role(ROLE))
    aws.add_role(Role(FAR_ROLE))
    failure = refusal(ecr(role_arn=(ROLE, FAR_ROLE), duration=timedelta(hours=2)))
    assert isinstance(failure, Misconfigured)
    assert "1 hour session limit" in str(failure)


def test_a_session_that_is_too_short_is_a_configuration_error(aws: AwsStandIn) -> None:
    """Under 15 minutes boto3 does not even ask."""
    failure = refusal(ecr(role_arn=(ROLE,), duration=timedelta(minutes=1)))
    assert isinstance(failure, Misconfigured)
    assert "DurationSeconds" in str(failure)


def test_a_role_that_does_not_trust_us_is_named(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong external id is `forbidden`, with the role and what to check, not the id."""
    monkeypatch.setenv("EXT", "tenant-8")
    aws.add_role(Role(ROLE, external_id="tenant-7"))
    failure = refusal(ecr(role_arn=(ROLE,), external_id=Reference(env="EXT")))
    assert isinstance(failure, Forbidden)
    assert "tenant-8" not in str(failure)
    for word in (ROLE, "sts:AssumeRole", "trust policy", "external_id"):
        assert word in str(failure)


def test_a_value_that_sts_quotes_back_is_not_shown(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STS quotes what it could not validate, which may be the external id."""
    monkeypatch.setenv("EXT", "tenant 8")
    aws.error("ValidationError", 400, "Value 'tenant 8' at 'externalId' failed to satisfy")
    failure = refusal(ecr(role_arn=(ROLE,), external_id=Reference(env="EXT")))
    assert isinstance(failure, Misconfigured)
    assert "tenant 8" not in str(failure)
    assert "externalId" in str(failure)


def web_identity(aws: AwsStandIn, tmp_path: Path, life: timedelta = timedelta(hours=1)) -> Path:
    aws.add_role(Role(ROLE))
    aws.web_identities["header.payload.signature"] = datetime.now(UTC) + life
    file = tmp_path / "token"
    file.write_text("header.payload.signature")
    return file


def test_web_identity_is_exchanged_for_each_token(keyless: AwsStandIn, tmp_path: Path) -> None:
    """The configured token file is read and exchanged anew; further roles follow from it."""
    keyless.add_role(Role(FAR_ROLE, trusts=frozenset({ROLE})))
    file = web_identity(keyless, tmp_path)
    source = ecr(web_identity_token_file=file, role_arn=(ROLE, FAR_ROLE))
    obtain(source)
    obtain(source)
    assert keyless.calls == {
        "AssumeRoleWithWebIdentity": 2,
        "AssumeRole": 2,
        "GetAuthorizationToken": 2,
    }


def test_web_identity_of_the_environment_is_exchanged_for_each_token(
    keyless: AwsStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod with IRSA no nearly finished session is used."""
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(web_identity(keyless, tmp_path)))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    source = ecr()
    obtain(source)
    obtain(source)
    assert keyless.calls == {"AssumeRoleWithWebIdentity": 2, "GetAuthorizationToken": 2}


def test_session_bound_knows_the_session_of_the_default_chain(
    keyless: AwsStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a session that boto3 assumed bounds the token, too."""
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(web_identity(keyless, tmp_path)))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    now = datetime.now(UTC)
    credential = ecr(session_bound=True).obtain(now)
    assert credential.expires_at is not None
    assert (credential.expires_at - now).total_seconds() == pytest.approx(3600, abs=8)


@pytest.mark.parametrize(
    ("token", "life", "kind", "words"),
    [
        ("header.payload.signature", timedelta(seconds=-1), Unauthorized, "AWS session expired"),
        ("other", timedelta(hours=1), Unauthorized, "web_identity_token_file"),
        (None, timedelta(hours=1), Misconfigured, "cannot read .*token"),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
def test_a_web_identity_that_is_no_good_is_named(
    keyless: AwsStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    token: str | None,
    life: timedelta,
    kind: type[Failure],
    words: str,
    configured: bool,
) -> None:
    """Expired, unknown and missing tokens, from the configuration or the environment."""
    file = web_identity(keyless, tmp_path, life)
    file.unlink() if token is None else file.write_text(token)
    if configured:
        source = ecr(web_identity_token_file=file, role_arn=(ROLE,))
    else:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        source = ecr()
    with pytest.raises(kind, match=words):
        obtain(source)


def test_web_identity_without_a_role_is_a_configuration_error(
    aws: AwsStandIn, tmp_path: Path
) -> None:
    """STS exchanges a token for a role, so there must be one."""
    assert isinstance(refusal(ecr(web_identity_token_file=tmp_path / "token")), Misconfigured)


SSO = """
[profile sso]
sso_session = s
sso_account_id = 123456789012
sso_role_name = r
[sso-session s]
sso_region = eu-west-1
sso_start_url = https://127.0.0.1/start
"""


@pytest.mark.parametrize(
    ("profile", "config", "kind", "words"),
    [
        (None, "", Misconfigured, "AWS credentials: missing or incomplete"),
        ("gone", "", Misconfigured, "gone"),
        ("half", "[profile half]\naws_access_key_id = a\n", Misconfigured, "incomplete"),
        ("loop", "[profile loop]\nrole_arn = r\nsource_profile = loop\n", Misconfigured, "loop"),
        ("odd", "[profile odd\n", Misconfigured, "config"),
        ("gives", "[profile gives]\ncredential_process = false\n", Unavailable, "provider gave"),
        (
            "sso",
            SSO,
            Misconfigured,
            "aws sso login",
        ),
    ],
)
def test_an_identity_that_is_not_there_is_named(
    keyless: AwsStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    profile: str | None,
    config: str,
    kind: type[Failure],
    words: str,
) -> None:
    """Missing, partial or ended credentials say what a person must do."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_text(config)
    failure = refusal(ecr(profile=profile))
    assert isinstance(failure, kind)
    assert words in str(failure)
    assert not keyless.requests


# --- what AWS refuses --------------------------------------------------------------------------

SKEW = "Signature expired: 20261123T070000Z is now earlier than 20261123T080000Z (x - 5 min.)"
DENIED = "User: arn:aws:iam::1:user/ci is not authorized to perform: ecr:GetAuthorizationToken"
DEAD = "The security token included in the request is invalid"
ERRORS = [
    ("ExpiredTokenException", 400, "expired", Unauthorized, "AWS session expired"),
    ("ExpiredToken", 403, "expired", Unauthorized, "AWS session expired"),
    ("UnrecognizedClientException", 400, DEAD, Unauthorized, "no such access key"),
    ("InvalidClientTokenId", 403, DEAD, Unauthorized, "no such access key"),
    ("AccessDeniedException", 400, DENIED, Forbidden, DENIED),
    ("AccessDeniedException", 400, DENIED, Forbidden, "allow ecr:GetAuthorizationToken"),
    ("AccessDeniedException", 403, DEAD, Unauthorized, "no such access key"),
    ("InvalidSignatureException", 403, SKEW, ClockSkewed, "NTP"),
    (
        "InvalidSignatureException",
        400,
        "Signature not yet current: 20261123T090000Z is still later than 20261123T080000Z",
        ClockSkewed,
        "NTP",
    ),
    ("RequestExpired", 400, "Request has expired.", ClockSkewed, "NTP"),
    ("InvalidSignatureException", 400, "does not match", Unauthorized, "secret access key"),
    ("SignatureDoesNotMatch", 403, "does not match", Unauthorized, "secret access key"),
    ("IncompleteSignature", 400, "missing header", Unauthorized, "signature"),
    ("OptInRequired", 403, "needs a subscription", Misconfigured, "needs a subscription"),
    ("InvalidParameterException", 400, "Invalid parameter", Misconfigured, "Invalid parameter"),
    ("ThrottlingException", 400, "Rate exceeded", Throttled, "too many calls"),
    ("RequestLimitExceeded", 503, "Rate exceeded", Throttled, "too many calls"),
    ("TooManyRequestsException", 429, "Rate exceeded", Throttled, "too many calls"),
    ("Odd", 429, "", Throttled, "too many calls"),
    ("ServerException", 500, "", Unavailable, "HTTP 500"),
    ("InternalFailure", 500, "", Unavailable, "HTTP 500"),
    ("ServiceUnavailable", 503, "", Unavailable, "HTTP 503"),
    ("IDPCommunicationError", 400, "", Unavailable, "identity provider"),
    ("Odd", 400, "odd", InvalidResponse, "HTTP 400"),
]


@pytest.mark.parametrize(("code", "status", "message", "kind", "words"), ERRORS)
def test_each_refusal_has_its_reason_and_says_what_to_do(
    aws: AwsStandIn, *, code: str, status: int, message: str, kind: type[Failure], words: str
) -> None:
    """The errors of ECR and STS, one attempt each, in one line."""
    aws.error(code, status, message)
    failure = refusal(ecr())
    assert type(failure) is kind
    assert words in str(failure)
    assert str(failure).startswith("ecr.eu-west-1: GetAuthorizationToken refused")
    assert aws.calls.total() == 1


@pytest.mark.parametrize(("code", "status", "message", "kind", "words"), ERRORS[:3] + ERRORS[9:12])
def test_sts_refuses_in_xml_with_the_same_meaning(
    aws: AwsStandIn, *, code: str, status: int, message: str, kind: type[Failure], words: str
) -> None:
    """The query protocol leads to the same failures, named after STS."""
    aws.error(code, status, message)
    failure = refusal(ecr(role_arn=(ROLE,)))
    assert type(failure) is kind
    assert str(failure).startswith("sts.eu-west-1: AssumeRole refused")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Response(500), Unavailable),
        (Response(502, b"<html>Bad gateway, hunter2</html>"), Unavailable),
        (Response(503, b"hunter2 is down", JSON), Unavailable),
        (Response(403, b"<html>hunter2</html>"), Forbidden),
        (Response(403), Forbidden),
        (Response(407, b"hunter2", JSON), InvalidResponse),
        (Response(400, b"[]", JSON), InvalidResponse),
    ],
)
def test_a_body_that_is_not_awss_is_not_quoted(
    aws: AwsStandIn, answer: Response, kind: type[Failure]
) -> None:
    """Pages of proxies and balancers are judged by their status."""
    aws.fail(answer)
    failure = refusal(ecr())
    assert type(failure) is kind
    assert "html" not in str(failure)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)]
)
def test_retry_after_is_passed_on(aws: AwsStandIn, header: str, seconds: int | None) -> None:
    """How long AWS wants to be left alone reaches the policy."""
    aws.error("ThrottlingException", 400, "Rate exceeded", headers={"Retry-After": header})
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert refusal(ecr()).retry_after == expected


def test_a_clock_that_is_off_is_named_with_its_skew(aws: AwsStandIn) -> None:
    """AWS refuses a signature that is 10 minutes old; we say by how much we are off."""
    aws.clock = OffsetClock(timedelta(minutes=10))
    skews = Skews()
    failure = refusal(ecr(skews=skews))
    assert isinstance(failure, ClockSkewed)
    assert "-600 s" in str(failure) or "-599 s" in str(failure)
    assert skews.seconds()["ecr.eu-west-1"] == pytest.approx(600, abs=5)


def test_nothing_secret_is_in_a_refusal(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused signature is answered with the session token in it, which goes nowhere."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    assert SECRET_ACCESS_KEY not in str(refusal(ecr()))
    token = "Zm9v" * 30
    aws.error("AccessDeniedException", 400, f"refused for {token} and {'wrong' * 8}")
    failure = refusal(ecr())
    assert token not in str(failure)
    assert "wrong" not in str(failure)


# --- what the network does ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault.hang(), Fault.hang_in_body(), Fault.drip(0.02)], ids=["hang", "half", "drip"]
)
@pytest.mark.parametrize("roles", [(), (ROLE,)], ids=["ecr", "sts"])
def test_a_call_ends_within_its_deadline(
    aws: AwsStandIn, fault: Fault, roles: tuple[str, ...]
) -> None:
    """Whatever the peer does, the call ends; even one that drips a byte at a time."""
    aws.fail(fault)
    started = time.monotonic()
    failure = refusal(ecr(seconds=0.4, role_arn=roles))
    assert isinstance(failure, TimedOut)
    assert time.monotonic() - started < 4  # before the library's own time-out of a read, 5 s


def test_the_read_time_out_comes_before_the_deadline(aws: AwsStandIn) -> None:
    """With the defaults a silent peer is given up after 5 s, without a second try."""
    aws.fail(Fault.hang())
    started = time.monotonic()
    assert isinstance(refusal(ecr()), TimedOut)
    assert 4.5 < time.monotonic() - started < 8
    assert len(aws.requests) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.reset(), Unavailable),
        (Fault.garbage(), Unavailable),
        (Fault.truncated(), InvalidResponse),
    ],
    ids=["reset", "garbage", "cut"],
)
def test_a_broken_answer_is_a_failure_after_one_try(
    aws: AwsStandIn, fault: Fault, kind: type[Failure]
) -> None:
    """botocore's own retries are off: the policy retries."""
    aws.fail(fault)
    assert isinstance(refusal(ecr()), kind)
    assert len(aws.requests) == 1


def test_nobody_there_is_unavailable(aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection and a name that does not resolve are both the network's fault."""
    for url in (f"http://127.0.0.1:{free_port()}", "https://nowhere.invalid"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", url)
        assert isinstance(refusal(ecr()), Unavailable)


def test_tls_that_cannot_be_trusted_is_named(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS to a peer that speaks none is a TLS failure and says where the bundle is set."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", aws.url.replace("http:", "https:"))
    failure = refusal(ecr())
    assert isinstance(failure, TlsFailure)
    assert "AWS_CA_BUNDLE" in str(failure)


def test_an_endpoint_that_is_no_url_is_a_configuration_error(
    aws: AwsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is named, its value is not."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", "user:hunter2@[")
    failure = refusal(ecr())
    assert isinstance(failure, Misconfigured)
    assert "AWS_ENDPOINT_URL" in str(failure)
    assert "hunter2" not in str(failure)


def test_it_recovers_when_aws_does(aws: AwsStandIn) -> None:
    """The same source works again after each kind of trouble, with nothing restarted."""
    source = ecr(seconds=2.0)
    for trouble in (Fault.reset(), Fault.hang(), Response(503)):
        aws.fail(trouble, times=1)
        refusal(source)
        obtain(source)
