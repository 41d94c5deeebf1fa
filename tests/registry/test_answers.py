"""What an answer says of the credential."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher.clock import retry_after
from refresher.errors import (
    Failure,
    Forbidden,
    InvalidResponse,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
)
from refresher.model import SecretValue
from refresher.registry.answers import Answer, classify, failure_of
from refresher.registry.names import Kind
from refresher.registry.words import Scrubber
from tests.conftest import NOON

ECR_EXPIRED = "Your authorization token has expired. Reauthenticate and try again."
ECR_INVALID = "The security token included in the request is invalid"
ECR_DENIED = "User: arn:aws:iam::1:user/u is not authorized to perform: ecr:BatchGetImage"
GAR_DENIED = 'Permission "artifactregistry.repositories.downloadArtifacts" denied on resource'


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        pytest.param(Answer(200), None, id="accepted"),
        pytest.param(Answer(401, Kind.ECR), Unauthorized, id="ECR: wrong"),
        pytest.param(Answer(403, Kind.ECR, message=ECR_EXPIRED), Unauthorized, id="ECR: expired"),
        pytest.param(Answer(403, Kind.ECR, message=ECR_INVALID), Unauthorized, id="ECR: revoked"),
        pytest.param(Answer(403, Kind.ECR, message=ECR_DENIED), Forbidden, id="ECR: no permission"),
        pytest.param(Answer(403, Kind.ECR), Forbidden, id="ECR: 403 without a word"),
        pytest.param(Answer(404, Kind.ECR), NotFound, id="ECR: no such image"),
        pytest.param(Answer(400, Kind.ECR_PUBLIC), Unauthorized, id="ECR Public: bad bearer"),
        pytest.param(
            Answer(400, Kind.ECR_PUBLIC, with_proved_token=True),
            InvalidResponse,
            id="ECR Public: 400 to a token that was good a moment ago",
        ),
        pytest.param(Answer(400, Kind.ECR), InvalidResponse, id="400 elsewhere"),
        pytest.param(Answer(401, at_token_endpoint=True), Unauthorized, id="token: wrong"),
        pytest.param(
            Answer(403, at_token_endpoint=True, message="denied"), Unauthorized, id="GHCR: wrong"
        ),
        pytest.param(
            Answer(403, at_token_endpoint=True, message="Forbidden\n"),
            InvalidResponse,
            id="GitLab: the address is banned",
        ),
        pytest.param(
            Answer(403, at_token_endpoint=True), InvalidResponse, id="token: 403 without a word"
        ),
        pytest.param(
            Answer(403, at_token_endpoint=True, message=GAR_DENIED),
            Forbidden,
            id="token: 403 about a repository",
        ),
        pytest.param(
            Answer(403, with_proved_token=True, message=GAR_DENIED), Forbidden, id="GAR: denied"
        ),
        pytest.param(Answer(401, with_proved_token=True), Forbidden, id="Quay: may not see it"),
        pytest.param(
            Answer(401, with_proved_token=True, challenge_error="insufficient_scope"),
            Forbidden,
            id="Docker Hub: may not see it",
        ),
        pytest.param(
            Answer(401, with_proved_token=True, challenge_error="invalid_token"),
            InvalidResponse,
            id="its own token refused",
        ),
        pytest.param(Answer(429), Throttled, id="throttled"),
        pytest.param(Answer(500), Unavailable, id="broken"),
        pytest.param(Answer(503), Unavailable, id="unavailable"),
        pytest.param(Answer(307), InvalidResponse, id="redirect"),
        pytest.param(Answer(204), InvalidResponse, id="another success"),
        pytest.param(Answer(418), InvalidResponse, id="teapot"),
    ],
)
def test_each_answer_is_one_failure_or_none(answer: Answer, failure: type[Failure] | None) -> None:
    """The table of the registries' habits."""
    assert classify(answer) is failure


_ANSWERS = st.builds(
    Answer,
    status=st.integers(100, 599),
    kind=st.sampled_from(Kind),
    at_token_endpoint=st.booleans(),
    with_proved_token=st.booleans(),
    challenge_error=st.sampled_from(["", "insufficient_scope", "invalid_token", "else"]),
    message=st.sampled_from([ECR_EXPIRED, ECR_INVALID, ECR_DENIED, GAR_DENIED]) | st.text(),
    location=st.text(),
    retry_after=st.none() | st.timedeltas(timedelta(0), timedelta(days=1)),
)


@given(_ANSWERS)
def test_only_a_refusal_condemns_and_only_a_success_acquits(answer: Answer) -> None:
    """For all answers: what is no 4xx of the login tells nothing about the credential."""
    failure = classify(answer)
    assert (failure is None) == (answer.status == 200)
    if failure is Unauthorized:
        assert answer.status in (400, 401, 403)
    if answer.status == 400 and answer.kind is not Kind.ECR_PUBLIC:
        assert failure is InvalidResponse
    if answer.with_proved_token and not {"expired", "token"} & set(answer.message.lower().split()):
        assert failure is not Unauthorized


@given(_ANSWERS.filter(lambda answer: answer.status != 200), st.text())
def test_no_answer_makes_a_message_of_more_than_a_line(answer: Answer, value: str) -> None:
    """Nor one that repeats the credential in the server's words."""
    password = f"hunter2{value}"
    words = f"{password} {answer.message}"
    message = _failure(replace(answer, message=words), password).message
    assert len(message.splitlines()) == 1
    assert "hunter2" not in message.removeprefix("ghcr.io")


def _failure(answer: Answer, password: str = "hunter2") -> Failure:
    failure = failure_of(answer, "ghcr.io", Scrubber("user", SecretValue(password)))
    assert failure is not None
    return failure


def test_the_message_says_who_what_and_the_servers_words() -> None:
    """One line, with the credential taken out."""
    failure = _failure(Answer(403, message="hunter2 is not\nallowed"))
    assert failure.message == (
        "ghcr.io knows the credential and denies it access (HTTP 403): *** is not allowed"
    )


def test_a_redirect_names_its_host_only() -> None:
    """Where a credential was not sent."""
    failure = _failure(Answer(307, location="evil.example"))
    assert failure.message == "ghcr.io redirects to evil.example, not followed (HTTP 307)"


def test_a_lockout_says_nothing_about_the_credential() -> None:
    """Docker Hub names no time, so it is left alone for an hour."""
    message = "toomanyrequests: too many failed login attempts for username or IP address"
    failure = _failure(Answer(429, message=message))
    assert failure.retry_after == timedelta(hours=1)
    assert "tells nothing about the credential" in failure.message


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "30"}, 30),
        ({"Retry-After": " 30 "}, 30),
        ({"Retry-After": "Mon, 23 Nov 2026 12:01:00 GMT"}, 60),
        ({"X-Retry-After": str(int(NOON.timestamp()) + 90)}, 90),
        ({"X-Retry-After": str(int(NOON.timestamp()) + 90), "Retry-After": "5"}, 90),
        ({"Retry-After": "999999999999"}, 6 * 3600),
        ({"Retry-After": "9" * 5000}, None),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:00 GMT"}, None),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({"X-Retry-After": "1"}, None),
    ],
)
def test_the_wait_a_peer_asks_for(headers: dict[str, str], seconds: int | None) -> None:
    """Seconds, a date or Docker Hub's Unix time; six hours at most; nonsense is no wish."""
    wait = retry_after(httpx.Headers(headers), NOON)
    assert (None if wait is None else wait.total_seconds()) == seconds
