"""What the fal project makes of the secrets."""

from __future__ import annotations

from collections.abc import Iterator, Set

from refresher.discovery import Discovery, Finding
from refresher.doctor.checks import Check, bad, good, unknown
from refresher.doctor.instruments import Case


def whole(project: Discovery, kept: Set[str]) -> Iterator[Check]:
    """What cannot be read of the project, and what nobody keeps; `kept`: secrets of targets."""
    for problem in project.problems:
        yield unknown("project", f"not read: {problem}")
    unkept = [finding for finding in project.unkept if finding.secret not in kept]
    for finding in unkept:
        yield bad("project", f"app {finding.app} ({finding.place}) is not kept", finding.advice)
    if not unkept:
        count = len(project.findings)
        where = "1 place, which is" if count == 1 else f"{count} places, all of them"
        yield good("project", f"uses a private registry in {where} kept")


def use(case: Case, project: Discovery, name: str) -> Check:
    """Which apps use the target's secret, and whether as what it holds."""
    section = case.section
    uses = [each for each in project.findings if each.secret == section.secret]
    if not uses:
        return unknown(name, f"no app of the project uses ${section.secret}")
    wrong = [line for finding in uses for line in _misfits(case, finding)]
    if wrong:
        return bad(name, "; ".join(wrong), f"make the app and targets.{case.target.name} agree")
    places = ", ".join(f"{finding.app} ({finding.place})" for finding in uses)
    return good(name, f"${section.secret} is used by {places}")


def _misfits(case: Case, finding: Finding) -> Iterator[str]:
    target = case.target
    where = f"{finding.app} ({finding.place})"
    if finding.source not in (None, target.kind):
        yield f"{where} wants a password of {finding.registry}, this is one of {target.kind}"
    elif finding.username not in (None, target.username):
        yield f"{where} logs in as {finding.username}, the secret is for {target.username}"
