"""Whatever AWS or Google answers, it is one failure, in one line, that gives nothing away."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from refresher.errors import ClockSkewed, Failure, Throttled, Unauthorized, Unavailable
from refresher.sources.aws_errors import Step, translated
from refresher.sources.google_errors import Refusal, refused
from tests.conftest import NOON

STEP = Step("ecr us-east-1", "allow it")
#: As a token, a key or a signature looks.
TOKEN = "FwoGZXIvYXdzEBYaDHqa0AP1l2cX8yQkvS" * 3

_WORDS = st.text(max_size=120) | st.sampled_from(
    ["The security token included in the request is expired", "Signature expired: 1 < 2", ""]
)
_CODES = st.text(max_size=40) | st.sampled_from(
    ["AccessDenied", "ExpiredTokenException", "UnrecognizedClientException", "403", "Throttling"]
)
_STATUSES = st.sampled_from([301, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504])
_GRANTS = st.sampled_from(
    ["Invalid JWT Signature.", "Robot is disabled.", "Invalid grant: account not found", "", "x"]
)


def _aws(code: str, message: str, status: int) -> Failure:
    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}},
    }
    error = ClientError(answer, "GetAuthorizationToken")
    return translated(error, STEP, timedelta(minutes=7), NOON)


def _google(code: str, words: str, status: int) -> Failure:
    body = json.dumps({"error": code, "error_description": words}).encode()
    return refused(Refusal("oauth2.googleapis.com", status, body))


@given(_CODES, _WORDS, _STATUSES)
def test_whatever_aws_says_is_one_line_without_a_token(code: str, words: str, status: int) -> None:
    """Printable by any log, whatever stands in the code, the message or around it."""
    failure = _aws(code, f"{words} {TOKEN}", status)
    assert TOKEN not in failure.message
    assert len(failure.message.splitlines()) == 1
    assert failure.message.startswith(STEP.peer)


@given(_WORDS, st.sampled_from([500, 502, 503, 504]))
def test_no_trouble_of_aws_condemns_a_credential(words: str, status: int) -> None:
    """Without a code of AWS's and without its words for a dead token, a 5xx is AWS's trouble."""
    if "token" not in words.lower():
        assert isinstance(_aws(str(status), words, status), Unavailable | ClockSkewed)


@given(_CODES | st.just("invalid_grant"), _GRANTS, _STATUSES)
def test_no_trouble_of_google_condemns_a_key(code: str, words: str, status: int) -> None:
    """A 429 and a 5xx say nothing of the key, whatever words come with them."""
    failure = _google(code, words, status)
    if status == 429:
        assert isinstance(failure, Throttled)
    if status >= 500:
        assert isinstance(failure, Unavailable)
    assert len(failure.message.splitlines()) == 1


@given(st.binary(max_size=200), _STATUSES)
def test_no_body_of_googles_breaks_the_judge(body: bytes, status: int) -> None:
    """Nor does one that is no JSON say that the key is dead."""
    failure = refused(Refusal("oauth2.googleapis.com", status, body))
    assert not isinstance(failure, Unauthorized)


@pytest.mark.parametrize("key", ["-----BEGIN PRIVATE KEY-----\nMIIE", TOKEN])
def test_what_google_repeats_of_a_key_is_not_shown(key: str) -> None:
    """An answer may quote what it was sent."""
    assert "MII" not in (message := _google("invalid_grant", f"bad {key}", 400).message)
    assert TOKEN not in message
