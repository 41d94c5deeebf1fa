"""All uses of a project together: one target a secret, and what does not get along. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from refresher.discovery.findings import Finding, Table, Target, Use
from refresher.discovery.judging import judge, usual_secret, value_of

_LONGEST_NAME = 63
#: Names of targets whose secrets have the usual names.
_SHORT = {
    "AWS_ECR_PASSWORD": "ecr",
    "AWS_ECR_PUBLIC_PASSWORD": "ecr-public",
    "GOOGLE_AR_JSON_BASE64": "gar",
    "GOOGLE_AR_TOKEN": "gar-token",
    "DOCKERHUB_TOKEN": "hub",
}


@dataclass(slots=True)
class _Draft:
    name: str
    table: Table
    findings: list[Finding]


def plan(uses: Iterable[Use]) -> tuple[tuple[Finding, ...], tuple[Target, ...]]:
    """The findings in order of file and line, and the targets that keep what can be kept."""
    findings = []
    drafts: dict[str, _Draft] = {}
    for use in sorted(uses, key=lambda use: (use.place.file, use.place.line)):
        judged = judge(use)
        finding = judged.finding
        if judged.table is not None:
            finding = _place(drafts, finding, judged.table)
        findings.append(finding)
    targets = (
        Target(each.name, each.table, tuple(dict.fromkeys(each.findings)))
        for each in drafts.values()
    )
    return tuple(dict.fromkeys(findings)), tuple(targets)


def _place(drafts: dict[str, _Draft], finding: Finding, table: Table) -> Finding:
    """Give a finding its target, a new one or one that is there; the finding with its advice."""
    secret = table["secret"]
    draft = drafts.get(secret)
    if draft is None:
        twin = next((each for each in drafts.values() if _same_login(each.table, table)), None)
        draft = drafts[secret] = _Draft(_name(table, drafts.values()), table, [])
        words = (
            "" if twin is None else f"; ${twin.table['secret']} is for the same login: one would do"
        )
    elif value_of(draft.table) != value_of(table):
        return replace(finding, advice=_clash(draft, finding))
    else:
        words = _shared(draft, table)
        if not words:
            draft.table = {**table, **draft.table}  # for an image, where the first has none
    finding = replace(finding, advice=f"target {draft.name}: {finding.advice}{words}")
    draft.findings.append(finding)
    return finding


def _same_login(one: Table, other: Table) -> bool:
    return _registry(one) == _registry(other) and value_of(one) == value_of(other)


def _registry(table: Table) -> str:
    return str(table.get("registry", "docker.io"))


def _shared(draft: _Draft, table: Table) -> str:
    if _registry(draft.table) == _registry(table):
        return ""
    return f"; good here as well, and proved against {_registry(draft.table)} alone"


def _clash(draft: _Draft, finding: Finding) -> str:
    first = draft.findings[0]
    return (
        f"not kept: ${finding.secret} holds what {_registry(draft.table)} wants ({first.place}),"
        " and a secret holds one value: use another secret here"
    )


# --- names --------------------------------------------------------------------------------------


def _name(table: Table, others: Iterable[_Draft]) -> str:
    """A name that stays the same when the project grows: it follows the secret's."""
    source, secret = table["source"], table["secret"]
    short = _SHORT.get(secret) if secret == usual_secret(table) else None
    base = short or secret.lower().replace("_", "-").strip("-") or source
    return unique(base, {each.name for each in others})


def unique(base: str, taken: Iterable[str]) -> str:
    """The name, or with the first number behind it that makes it a new one."""
    names = set(taken)
    name, count = base[:_LONGEST_NAME], 1
    while name in names:
        count += 1
        suffix = f"-{count}"
        name = base[: _LONGEST_NAME - len(suffix)] + suffix
    return name
