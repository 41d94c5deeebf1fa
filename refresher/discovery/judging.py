"""One use of a registry, judged: what it is, and the target that would keep it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from refresher.config import Context, build
from refresher.discovery.findings import Finding, PasswordKind, Table, Use, printable
from refresher.errors import ConfigError
from refresher.registry.names import DOCKER_HUB, Kind, kind_of, normalise_registry, parse_image
from refresher.sources.ecr import USERNAME, parse_host

#: The key that fal's documentation and Docker's own configuration use.
HUB_KEY = "https://index.docker.io/v1/"

_GAR = re.compile(r"(?:[a-z0-9-]+-)?docker\.pkg\.dev|(?:[a-z0-9-]+\.)?gcr\.io", re.ASCII)
#: The user names of Artifact Registry (Google's documentation, "Configure authentication").
_GAR_KEYS = ("_json_key_base64", "_json_key")
_GAR_TOKEN = "oauth2accesstoken"  # noqa: S105 - a user name

#: The secrets that fal's documentation uses, for whoever has none yet.
_USUAL = {
    "ecr": "AWS_ECR_PASSWORD",
    "ecr-public": "AWS_ECR_PUBLIC_PASSWORD",
    "gar": "GOOGLE_AR_JSON_BASE64",
    _GAR_TOKEN: "GOOGLE_AR_TOKEN",
    "dockerhub": "DOCKERHUB_TOKEN",
    "oci": "REGISTRY_TOKEN",
}
#: How a password ends that is sent along with the deploy.
_END = {
    "ecr": "dead 12 h after the deploy",
    "ecr-public": "dead 12 h after the deploy",
    _GAR_TOKEN: "dead 1 h after the deploy",
}
#: What a fresh configuration would say besides targets; the state is not opened.
_AROUND = {"daemon": {"state": "sqlite://"}, "fal": {"host": "api.alpha.fal.ai"}}


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding, and the target that it asks for, if any."""

    finding: Finding
    #: What the configuration would say; None where nothing can be kept.
    table: Table | None = None


def judge(use: Use) -> Judged:
    """What a use comes to, by itself."""
    host = _host(use.key)
    if use.key is None or host is None:
        return Judged(_finding(use, None, None, _no_host(use.key)))
    source = _source(host)
    registry = "docker.io" if host == DOCKER_HUB else host
    if use.flaw:
        return Judged(_finding(use, registry, source, f"not kept: {use.flaw}"))
    if use.password.kind is not PasswordKind.REFERENCE:
        return Judged(_finding(use, registry, source, _unkept(use, source)))
    table = _TABLES[source](registry, use.username or "", use.password.secret or "")
    hindrance = _hindrance(use, registry, source) or _refusal(table)
    if hindrance is not None:
        return Judged(_finding(use, registry, source, f"not kept: {hindrance}"))
    advice = "; ".join((_kept(table), *_remarks(use, source)))
    return Judged(_finding(use, registry, source, advice), _with_image(table, host, use))


def _finding(use: Use, registry: str | None, source: str | None, advice: str) -> Finding:
    return Finding(
        app=printable(use.app),
        file=use.place.file,
        line=use.place.line,
        registry=registry,
        source=source,
        username=None if use.username is None else printable(use.username),
        secret=use.password.secret,
        password=use.password.kind,
        advice=advice,
    )


# --- the registry -------------------------------------------------------------------------------


def _host(key: str | None) -> str | None:
    try:
        return None if key is None else normalise_registry(key)
    except ValueError:  # its text may hold a password
        return None


def _no_host(key: str | None) -> str:
    if key is None:
        return (
            "not kept: only running the code would tell the registries; write them as a dictionary"
            " of constants, or name the target in the configuration"
        )
    if "@" in key:
        return "not kept: the key holds a user name or a password; write the host alone"
    return "not kept: the key is no host; write one such as ghcr.io"


def _source(host: str) -> str:
    kind = kind_of(host)
    if kind is not Kind.OTHER:
        return str(kind)
    return "gar" if _GAR.fullmatch(host) else "oci"


# --- what cannot be kept ------------------------------------------------------------------------


def _unkept(use: Use, source: str) -> str:
    """The cause and the fix for a password that no secret of fal holds."""
    password, use_instead = use.password, f'use "${_usual(source, use.username)}"'
    end = _END.get(source) or (_END[_GAR_TOKEN] if use.username == _GAR_TOKEN else None)
    if password.kind is PasswordKind.COMPUTED:
        end = end or "a new one needs a new deploy"
        return f"not kept: the password is computed at deploy time: {end}; {use_instead}"
    if password.flaw:
        return f"not kept: the password {password.flaw}; {use_instead}"
    escaped = ', whose "$$" fal takes for "$"' if password.escaped else ""
    end = end or "replace it, for it is no secret any more"
    return f"not kept: warning: a literal password stands here{escaped}: {end}; {use_instead}"


def _hindrance(use: Use, registry: str, source: str) -> str | None:
    """Why there is no target although the password is a reference; None where there is one."""
    if source == "ecr":
        known = parse_host(registry) is not None
        return None if known else "AWS has no such registry; look at the region in its name"
    if source == "ecr-public":
        return None
    if use.username is None:
        return "the user name is missing or computed; write it as a constant"
    if use.username.startswith("$"):
        return "the user name is a secret itself; write the name"
    if source == "gar" and use.username not in (*_GAR_KEYS, _GAR_TOKEN):
        return f"Artifact Registry knows the users {', '.join(_GAR_KEYS)} and {_GAR_TOKEN} alone"
    return None


def _refusal(table: Table) -> str | None:
    """What the configuration has against a target; None where it takes it."""
    try:
        build({**_AROUND, "targets": {"found": dict(table)}}, Context(), follow="nothing")
    except ConfigError as error:
        return error.problems[0].partition("targets.found.")[2] or error.problems[0]
    return None


# --- what is kept -------------------------------------------------------------------------------


def _kept(table: Table) -> str:
    if table["source"] in ("ecr", "ecr-public"):
        return "a new token at the latest 4 h after the last"
    if "mode" in table:
        return "a new token after a third of its life"
    return "verified all day, and published when it changes"


def _remarks(use: Use, source: str) -> list[str]:
    remarks = []
    if source == "ecr-public":
        remarks.append("public images pull anonymously, and a stale secret is worse than none")
    if source in ("ecr", "ecr-public") and use.username != USERNAME:
        remarks.append(f"the user name must be {USERNAME}")
    if source == "dockerhub" and use.key != HUB_KEY:
        remarks.append(f"fal's documentation writes the key {HUB_KEY}")
    return remarks


def _ecr(registry: str, _username: str, secret: str) -> Table:
    return {"source": "ecr", "registry": registry, "secret": secret}


def _ecr_public(registry: str, _username: str, secret: str) -> Table:
    return {"source": "ecr-public", "registry": registry, "secret": secret}


def _gar(registry: str, username: str, secret: str) -> Table:
    common = {"source": "gar", "registry": registry}
    if username == _GAR_TOKEN:
        return {**common, "mode": "token", "secret": secret}
    return {**common, "username": username, "key": {"env": secret}, "secret": secret}


def _docker_hub(_registry: str, username: str, secret: str) -> Table:
    login = {"username": username, "password": {"env": secret}}
    return {"source": "dockerhub", **login, "secret": secret}


def _oci(registry: str, username: str, secret: str) -> Table:
    login = {"username": username, "password": {"env": secret}}
    return {"source": "oci", "registry": registry, **login, "secret": secret}


_TABLES: dict[str, Callable[[str, str, str], Table]] = {
    "ecr": _ecr,
    "ecr-public": _ecr_public,
    "gar": _gar,
    "dockerhub": _docker_hub,
    "oci": _oci,
}


def _with_image(table: Table, host: str, use: Use) -> Table:
    for image in use.images:
        name = _on(host, image, use.username)
        if name is not None:
            return {**table, "image": name}
    return table


def _on(host: str, image: str, username: str | None) -> str | None:
    """An image as its registry names it; None where it is on another, or proves nothing.

    On Docker Hub, whatever is not the user's own is mostly public.
    """
    first, slash, _ = image.partition("/")
    named = bool(slash) and ("." in first or ":" in first or first == "localhost")
    if host != DOCKER_HUB and not named:
        return None
    try:
        found = str(parse_image(image, host))
    except ValueError:
        return None
    own = host != DOCKER_HUB or found.startswith(f"{username}/")
    return found if own else None


def usual_secret(table: Table) -> str:
    """The name that fal's documentation gives to the secret of such a target."""
    return _usual(table["source"], _GAR_TOKEN if "mode" in table else None)


def _usual(source: str, username: str | None) -> str:
    return _USUAL[_GAR_TOKEN if source == "gar" and username == _GAR_TOKEN else source]


def value_of(table: Table) -> tuple[object, ...]:
    """What decides the value of a target's secret: equal ones can share it."""
    source = table["source"]
    host = parse_host(table["registry"]) if source == "ecr" else None
    if host is not None:
        return (source, host.partition, host.region)
    return (source, table.get("mode"), table.get("username"))
