"""Each way in which a network fails, and what we call it."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresher.clock import ManualClock, Skews
from refresher.errors import (
    Failure,
    InvalidResponse,
    Misconfigured,
    TimedOut,
    TlsFailure,
    Unavailable,
)
from refresher.model import ImageRef, Pull, RegistryRef
from refresher.registry import RegistryVerifier
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.http import Fault, Request, Response
from refresher.sandbox.registry import RegistryStandIn
from tests.peers import free_port
from tests.registry.conftest import CALL_SECONDS, ECR_HOST, at, credential, judge_of

FAULTS = [
    pytest.param(Fault.hang(), TimedOut, id="hang"),
    pytest.param(Fault.hang_in_body(), TimedOut, id="hang in body"),
    pytest.param(Fault.drip(pause=0.02), TimedOut, id="drip"),
    pytest.param(Fault.truncated(), Unavailable, id="truncated"),
    pytest.param(Fault.reset(), Unavailable, id="reset"),
    pytest.param(Fault.garbage(), InvalidResponse, id="garbage"),
    pytest.param(Fault.enormous(), InvalidResponse, id="enormous"),
]


@pytest.mark.parametrize(("fault", "failure"), FAULTS)
@pytest.mark.parametrize("host", [ECR_HOST, "registry.example"])
def test_each_fault_has_its_failure_within_the_deadline(
    verifier: RegistryVerifier, host: str, fault: Fault, failure: type[Failure]
) -> None:
    """At the login nothing is judged, so nothing is proved; the next call is not held up."""
    with RegistryStandIn(ECR_HOST, judge_of({"good": "good"})) as registry:
        registry.fail(fault, times=1)
        began = time.monotonic()
        with pytest.raises(failure) as failed:
            verifier.verify(at(registry, host), credential("good"), None)
        assert time.monotonic() - began < CALL_SECONDS + 0.5
        assert failed.value.__cause__ is None or failure is TimedOut
        verifier.verify(at(registry, host), credential("good"), None)


@pytest.mark.parametrize(("fault", "failure"), FAULTS[:-1])
def test_a_fault_at_the_manifest_leaves_the_login_proved(
    verifier: RegistryVerifier, fault: Fault, failure: type[Failure]
) -> None:
    """The pull is unknown, with the reason in words."""

    class Registry(RegistryStandIn):
        def answer(self, request: Request) -> Fault | Response:
            return fault if "/manifests/" in request.path else super().answer(request)

    with Registry(ECR_HOST, judge_of({"good": "good"})) as registry:
        proof = verifier.verify(at(registry, ECR_HOST), credential("good"), ImageRef("a", "v1"))
    assert proof.pull is Pull.UNKNOWN
    assert "image a:v1" in (proof.pull_message or "")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"http://127.0.0.1:{free_port()}", id="nothing listens"),
        pytest.param("https://127.0.0.1:99999", id="no such port"),
    ],
)
def test_what_cannot_be_reached_is_unavailable(clock: ManualClock, skews: Skews, url: str) -> None:
    """Refused or impossible."""
    with (
        RegistryVerifier(clock=clock, skews=skews) as verifier,
        pytest.raises(Unavailable, match="cannot be reached"),
    ):
        verifier.verify(RegistryRef("registry.example", url), credential("good"), None)


def test_a_name_that_dns_cannot_hold_is_called_so(clock: ManualClock, skews: Skews) -> None:
    """Waiting does not make it one."""
    registry = RegistryRef("registry.example", f"https://{'a' * 70}.invalid")
    with (
        RegistryVerifier(clock=clock, skews=skews) as verifier,
        pytest.raises(InvalidResponse, match="cannot be called"),
    ):
        verifier.verify(registry, credential("good"), None)


class TlsRegistry(RegistryStandIn):
    """The same over TLS."""

    def __init__(self, certificates: Certificates) -> None:
        super().__init__(ECR_HOST, judge_of({"good": "good"}))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate_file, certificates.key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")


def test_a_private_authority_is_trusted_through_the_bundle(
    clock: ManualClock, skews: Skews, tmp_path: Path
) -> None:
    """And without it the certificate is refused, before the credential is sent."""
    certificates = authority(tmp_path, datetime.now(UTC))
    with TlsRegistry(certificates) as registry:
        with RegistryVerifier(clock=clock, skews=skews, ca_bundle=certificates.ca_file) as trusting:
            trusting.verify(at(registry, ECR_HOST), credential("good"), None)
        with (
            RegistryVerifier(clock=clock, skews=skews) as verifier,
            pytest.raises(TlsFailure, match="unable to get local issuer certificate"),
        ):
            verifier.verify(at(registry, ECR_HOST), credential("good"), None)
        assert len(registry.requests) == 1


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [
        ("127.0.0.1", -1, "certificate has expired"),
        ("other.example", 1, "not valid for '127.0.0.1'"),
    ],
)
def test_a_bad_certificate_is_named(tmp_path: Path, name: str, days: int, words: str) -> None:
    """Expired, or somebody else's."""
    now = datetime.now(UTC)
    certificates = authority(tmp_path, now, [name], timedelta(days=days))
    bundle = certificates.ca_file
    with (
        TlsRegistry(certificates) as registry,
        RegistryVerifier(clock=ManualClock(now), skews=Skews(), ca_bundle=bundle) as verifier,
        pytest.raises(TlsFailure, match=words),
    ):
        verifier.verify(at(registry, ECR_HOST), credential("good"), None)


def test_a_peer_that_speaks_no_tls_is_a_tls_failure(clock: ManualClock, skews: Skews) -> None:
    """HTTPS was configured, and plain HTTP listens there."""
    with (
        RegistryStandIn(ECR_HOST, judge_of({})) as registry,
        RegistryVerifier(clock=clock, skews=skews) as verifier,
    ):
        https = RegistryRef(ECR_HOST, registry.url.replace("http:", "https:"))
        with pytest.raises(TlsFailure):
            verifier.verify(https, credential("good"), None)


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_bundle_that_cannot_be_used_is_a_mistake_in_the_config(
    clock: ManualClock, skews: Skews, tmp_path: Path, content: str | None
) -> None:
    """Missing or of another kind; the message names the file."""
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(Misconfigured, match=r"bundle\.pem"):
        RegistryVerifier(clock=clock, skews=skews, ca_bundle=bundle)


def test_https_goes_through_the_proxy_of_the_environment(
    clock: ManualClock, skews: Skews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one does not know CONNECT; NO_PROXY leads past it."""
    https = RegistryRef(ECR_HOST, f"https://127.0.0.1:{free_port()}")
    with RegistryStandIn(ECR_HOST, judge_of({})) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.removeprefix("http://"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with RegistryVerifier(clock=clock, skews=skews) as verifier:
            with pytest.raises(Unavailable, match="501"):
                verifier.verify(https, credential("good"), None)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            with pytest.raises(Unavailable, match="refused"):
                verifier.verify(https, credential("good"), None)


def test_a_proxy_that_cannot_be_used_is_a_mistake_in_the_environment(
    clock: ManualClock, skews: Skews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its password is not repeated."""
    monkeypatch.setenv("HTTPS_PROXY", "socks9://user:hunter2@proxy.example")
    with pytest.raises(Misconfigured, match="HTTPS_PROXY") as failed:
        RegistryVerifier(clock=clock, skews=skews)
    assert "hunter2" not in failed.value.message
