"""Who we are, the credential, and what the registry says of it."""

from __future__ import annotations

from refresher.config import EcrPublicTarget, EcrTarget
from refresher.doctor.checks import Check, bad, good, unknown
from refresher.doctor.instruments import Case
from refresher.errors import TimedOut, TlsFailure, Unavailable
from refresher.model import Pull
from refresher.sources.ecr import EcrPublicSource, EcrSource
from refresher.view import timestamp


def aws_identity(case: Case, name: str) -> Check:
    """Who AWS takes us for. Raises a `Failure`."""
    source, section = case.target.source, case.section
    assert isinstance(source, EcrSource | EcrPublicSource)  # noqa: S101 - as the table's key says
    assert isinstance(section, EcrTarget | EcrPublicTarget)  # noqa: S101
    roles = section.aws.role_arn
    try:
        arn = case.tools.arn(source)
    except (Unavailable, TimedOut, TlsFailure) as failure:
        if roles:
            raise
        return unknown(name, f"only STS tells, and nothing else here needs it: {failure.message}")
    return good(name, f"{arn}, through {' and then '.join(roles)}" if roles else f"{arn}, no role")


def credential(case: Case, name: str) -> Check:
    """Whether one is issued, or there to be read. Raises a `Failure`."""
    found = case.tools.credential(case.target)
    ends = found.expires_at
    until = "no end known" if ends is None else f"good until {timestamp(ends)}"
    if case.target.renewable:
        return good(name, f"a new one was issued, {until}")
    return good(name, f"read from {case.reference}, {until}")


def login(case: Case, name: str) -> Check:
    """Whether the registry accepts it. Raises a `Failure`."""
    proof = case.tools.proof(case.target)
    steps = [layer.words for layer in proof.layers if layer.name not in ("access", "pull")]
    return good(name, "; ".join(steps) or f"{case.target.registry.host} accepted the login")


def image(case: Case, name: str) -> Check:
    """Whether the image can be pulled, told along with the login. Raises a `Failure`."""
    target = case.target
    if target.image is None:
        return unknown(
            name,
            "none is configured, so no pull was tried",
            f'add image = "REPOSITORY:TAG" to targets.{target.name}',
        )
    proof = case.tools.proof(target)
    words = proof.pull_message or str(target.image)
    if proof.pull is Pull.OK:
        return good(name, f"{target.image} can be pulled")
    if proof.pull is Pull.NOT_FOUND:
        return bad(name, words, f"push it, or correct image of targets.{target.name}")
    if proof.pull is Pull.FORBIDDEN:
        return bad(name, words, f"`refresher policy {target.name}` prints what must be allowed")
    return unknown(name, words, "try again later")
