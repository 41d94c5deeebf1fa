"""What the tests of the handshake share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from refresher.clock import ManualClock, Skews
from refresher.model import Credential, RegistryRef, SecretValue
from refresher.registry import RegistryVerifier
from refresher.sandbox.http import StandIn
from tests.conftest import NOON

ECR_HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"

#: Seconds; a stand-in answers in a few milliseconds or never.
CALL_SECONDS = 1.5


@pytest.fixture
def verifier(clock: ManualClock, skews: Skews) -> Iterator[RegistryVerifier]:
    """A verifier with a short deadline."""
    with RegistryVerifier(clock=clock, skews=skews, call_seconds=CALL_SECONDS) as verifier:
        yield verifier


def credential(password: str, username: str = "AWS") -> Credential:
    """A credential that was issued at noon."""
    return Credential(username, SecretValue(password), issued_at=NOON)


def at(stand_in: StandIn, host: str) -> RegistryRef:
    """The registry `host`, reached at a stand-in."""
    return RegistryRef(host=host, url=stand_in.url)


def judge_of(verdicts: dict[str, str]) -> Callable[[str], str]:
    """A judge that knows these passwords."""
    return lambda password: verdicts.get(password, "unknown")
