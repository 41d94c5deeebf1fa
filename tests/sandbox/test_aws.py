"""The stand-in for AWS, judged by the real boto3."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from refresher.clock import ManualClock
from refresher.sandbox.aws import (
    ACCESS_KEY_ID,
    ACCOUNT,
    REMEMBER,
    SECRET_ACCESS_KEY,
    AwsStandIn,
    Issued,
    Passwords,
    Role,
    new_password,
)
from refresher.sandbox.http import Request
from refresher.sandbox.sigv4 import Signature, is_signed_with, read_signature
from tests.awsenv import FAR_ROLE, ROLE, OffsetClock, isolate
from tests.conftest import NOON

ONCE = Config(retries={"mode": "standard", "total_max_attempts": 1})


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsStandIn]:
    """A stand-in, with boto3 kept from everything else."""
    isolate(monkeypatch, tmp_path)
    with AwsStandIn() as stand_in:
        yield stand_in


def client(aws: AwsStandIn, service: str = "ecr", region: str = "us-east-1", **key: str) -> Any:
    given = {"aws_access_key_id": ACCESS_KEY_ID, "aws_secret_access_key": SECRET_ACCESS_KEY, **key}
    session = boto3.Session(region_name=region, **given)
    return session.client(service, endpoint_url=aws.url, config=ONCE)


def session_key(answer: Any) -> dict[str, str]:
    given = answer["Credentials"]
    return {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }


def code(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


# --- signatures --------------------------------------------------------------------------------


def test_the_signature_of_awss_own_example_is_computed_alike() -> None:
    """The worked example of AWS's documentation (IAM ListUsers, 2015-08-30)."""
    headers = Message()
    headers["Host"] = "iam.amazonaws.com"
    headers["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8"
    headers["X-Amz-Date"] = "20150830T123600Z"
    headers["Authorization"] = (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request,"
        " SignedHeaders=content-type;host;x-amz-date,"
        " Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )
    request = Request("GET", "/", "Action=ListUsers&Version=2010-05-08", headers, b"")
    signature = read_signature(request)
    assert isinstance(signature, Signature)
    assert is_signed_with(request, signature, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    assert not is_signed_with(request, signature, "another")


@pytest.mark.parametrize(
    ("key", "ecr_code", "sts_code"),
    [
        (
            {"aws_secret_access_key": "wrong"},
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
        ),
        (
            {"aws_access_key_id": "AKIAUNKNOWN"},
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
        (
            {"aws_session_token": "uncalled-for"},
            "UnrecognizedClientException",
            "InvalidClientTokenId",
        ),
    ],
)
def test_a_wrong_key_is_refused(
    aws: AwsStandIn, key: dict[str, str], ecr_code: str, sts_code: str
) -> None:
    """Each protocol says it in its own code."""
    assert code(client(aws, **key).get_authorization_token) == ecr_code
    assert code(client(aws, "sts", **key).get_caller_identity) == sts_code


@pytest.mark.parametrize(
    ("minutes", "words"), [(6, "Signature expired"), (-6, "Signature not yet current")]
)
def test_a_skewed_clock_is_refused(aws: AwsStandIn, minutes: int, words: str) -> None:
    """Five minutes are tolerated, no more, and the words say in which direction."""
    aws.clock = OffsetClock(timedelta(minutes=minutes * 0.8))
    client(aws).get_authorization_token()
    aws.clock = OffsetClock(timedelta(minutes=minutes))
    with pytest.raises(ClientError, match=words):
        client(aws).get_authorization_token()


def test_with_time_moved_by_hand_the_tolerance_is_switched_off(aws: AwsStandIn) -> None:
    """botocore signs by the machine's clock, whatever a test's clock says."""
    aws.clock, aws.tolerance = ManualClock(NOON), None
    answer = client(aws).get_authorization_token()
    assert answer["authorizationData"][0]["expiresAt"] == NOON + timedelta(hours=12)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["date"] == "Mon, 23 Nov 2026 12:00:00 GMT"


def test_a_changed_body_is_refused(aws: AwsStandIn) -> None:
    """The body is under the signature."""
    ecr = client(aws)
    ecr.meta.events.register_last("before-send.ecr.GetAuthorizationToken", _send_changed)
    assert code(ecr.get_authorization_token) == "InvalidSignatureException"


def _send_changed(request: Any, **_: Any) -> None:
    request.body = b"{ }"


def test_a_signature_for_another_service_is_refused(aws: AwsStandIn) -> None:
    """Service and, for ECR Public, region of the scope must be right."""
    public = client(aws, "ecr-public", "eu-west-1")
    assert code(public.get_authorization_token) == "InvalidSignatureException"


# --- STS ---------------------------------------------------------------------------------------


def test_a_role_session_has_its_own_key_and_end(aws: AwsStandIn) -> None:
    """Temporary keys work with their session token only, and until they end."""
    aws.add_role(Role(ROLE))
    answer = client(aws, "sts").assume_role(RoleArn=ROLE, RoleSessionName="fal")
    key = session_key(answer)
    assert key["aws_access_key_id"].startswith("ASIA")
    assert client(aws, "sts", **key).get_caller_identity()["Arn"] == (
        f"arn:aws:sts::{ACCOUNT}:assumed-role/fal-pull/fal"
    )
    client(aws, **key).get_authorization_token()
    for token in (None, "other"):
        bad = {**key, "aws_session_token": token}
        assert code(client(aws, **bad).get_authorization_token) == "UnrecognizedClientException"
    aws.clock, aws.tolerance = OffsetClock(timedelta(minutes=61)), None
    assert code(client(aws, **key).get_authorization_token) == "ExpiredTokenException"
    assert code(client(aws, "sts", **key).get_caller_identity) == "ExpiredToken"


@pytest.mark.parametrize(
    ("role", "arguments", "expected"),
    [
        (Role(ROLE, external_id="x1"), {}, "AccessDenied"),
        (Role(ROLE, external_id="x1"), {"ExternalId": "x2"}, "AccessDenied"),
        (Role(ROLE, trusts=frozenset({FAR_ROLE})), {}, "AccessDenied"),
        (Role(FAR_ROLE), {}, "AccessDenied"),
        (
            Role(ROLE, max_session=timedelta(hours=1)),
            {"DurationSeconds": 3601},
            "ValidationError",
        ),
    ],
)
def test_a_role_is_guarded(
    aws: AwsStandIn, role: Role, arguments: dict[str, Any], expected: str
) -> None:
    """External id, trust, existence and bounds of the session are enforced."""
    aws.add_role(role)
    call = client(aws, "sts").assume_role
    assert code(call, RoleArn=ROLE, RoleSessionName="fal", **arguments) == expected


def test_a_chained_session_lasts_an_hour_at_most(aws: AwsStandIn) -> None:
    """A role assumed from a role gets no more than 3600 s."""
    aws.add_role(Role(ROLE))
    aws.add_role(Role(FAR_ROLE, trusts=frozenset({ROLE})))
    first = client(aws, "sts").assume_role(
        RoleArn=ROLE, RoleSessionName="fal", DurationSeconds=43200
    )
    sts = client(aws, "sts", **session_key(first))
    sts.assume_role(RoleArn=FAR_ROLE, RoleSessionName="fal", DurationSeconds=3600)
    chained = {"RoleArn": FAR_ROLE, "RoleSessionName": "fal", "DurationSeconds": 3601}
    assert code(sts.assume_role, **chained) == "ValidationError"


# --- tokens ------------------------------------------------------------------------------------


def test_tokens_belong_to_account_and_region(aws: AwsStandIn) -> None:
    """The registry can ask for whom a password was issued."""
    aws.add_key("AKIAOTHER", "other", account="210987654321")
    ecr = client(
        aws, region="eu-west-1", aws_access_key_id="AKIAOTHER", aws_secret_access_key="other"
    )
    data = ecr.get_authorization_token()["authorizationData"][0]
    assert data["proxyEndpoint"] == "https://210987654321.dkr.ecr.eu-west-1.amazonaws.com"
    issued = aws.passwords.issued(_password(data))
    assert issued is not None
    assert (issued.account, issued.region, issued.service) == ("210987654321", "eu-west-1", "ecr")


def _password(data: Any) -> str:
    return base64.b64decode(data["authorizationToken"]).decode().partition(":")[2]


def test_a_password_is_judged(aws: AwsStandIn) -> None:
    """Good until it ends, then expired; revoked at once; unknown if never issued."""
    aws.token_life = timedelta(seconds=30)
    ecr = client(aws)
    one, two = (_password(ecr.get_authorization_token()["authorizationData"][0]) for _ in "12")
    now = datetime.now(UTC)
    assert one != two
    assert aws.passwords.judge(one, now) == "good"
    assert aws.passwords.judge(one, now + timedelta(seconds=31)) == "expired"
    assert aws.passwords.judge("guess", now) == "unknown"
    aws.passwords.revoke(one)
    assert [aws.passwords.judge(password, now) for password in (one, two)] == ["revoked", "good"]
    aws.passwords.revoke_all()
    assert aws.passwords.judge(two, now) == "revoked"


@pytest.mark.parametrize(("bound", "verdict"), [(False, "good"), (True, "expired")])
def test_tokens_may_die_with_their_session(aws: AwsStandIn, bound: bool, verdict: str) -> None:
    """`expiresAt` says 12 hours either way, which is the trap."""
    aws.session_bound_death = bound
    aws.add_role(Role(ROLE))
    answer = client(aws, "sts").assume_role(RoleArn=ROLE, RoleSessionName="fal")
    data = client(aws, **session_key(answer)).get_authorization_token()["authorizationData"][0]
    later = datetime.now(UTC) + timedelta(minutes=61)
    assert data["expiresAt"] > later
    assert aws.passwords.judge(_password(data), later) == verdict


def test_old_passwords_are_forgotten() -> None:
    """Memory stays bounded however long the stand-in runs."""
    passwords = Passwords()
    for minute in range(600):
        now = NOON + timedelta(minutes=minute)
        issued = Issued(ACCOUNT, "us-east-1", "ecr", now + timedelta(minutes=1))
        passwords.add(new_password(now), issued, now)
    assert len(passwords) <= REMEMBER / timedelta(minutes=1) + 2


def test_passwords_look_like_real_ones() -> None:
    """About two kilobytes, random, fit for one line."""
    one, two = new_password(NOON), new_password(NOON)
    assert 1500 < len(one) < 2500
    assert one != two
    assert one.isprintable()


def test_the_rate_is_limited_per_account_and_region(aws: AwsStandIn) -> None:
    """A burst, then the steady rate; another region has a bucket of its own."""
    clock = ManualClock(NOON)
    aws.clock, aws.tolerance, aws.rate, aws.burst = clock, None, 2.0, 3.0
    ecr = client(aws)
    for _ in range(3):
        ecr.get_authorization_token()
    assert code(ecr.get_authorization_token) == "ThrottlingException"
    client(aws, region="eu-west-1").get_authorization_token()
    clock.advance(timedelta(seconds=1))
    ecr.get_authorization_token()
    ecr.get_authorization_token()
    assert code(ecr.get_authorization_token) == "ThrottlingException"


def test_the_real_limits_are_the_default() -> None:
    """20 a second with bursts of 200, as ECR's service quotas have it."""
    assert (AwsStandIn.rate, AwsStandIn.burst) == (20.0, 200.0)


def test_an_error_is_answered_as_often_as_told(aws: AwsStandIn) -> None:
    """Scoped to an operation and a number of times, and mended."""
    aws.error("AccessDenied", 403, "no", operation="AssumeRole")
    aws.error("ServerException", 500, "boom", operation="GetAuthorizationToken", times=2)
    ecr, sts = client(aws), client(aws, "sts")
    assert code(ecr.get_authorization_token) == "ServerException"
    assert code(ecr.get_authorization_token) == "ServerException"
    ecr.get_authorization_token()
    aws.add_role(Role(ROLE))
    assert code(sts.assume_role, RoleArn=ROLE, RoleSessionName="fal") == "AccessDenied"
    aws.mend()
    sts.assume_role(RoleArn=ROLE, RoleSessionName="fal")
    assert aws.calls == {"GetAuthorizationToken": 3, "AssumeRole": 2}
