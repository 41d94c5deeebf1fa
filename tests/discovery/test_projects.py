"""What is found in small fal projects, and what is said: one row a project."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from refresher.discovery import Discovery, Finding, discover
from tests.discovery.projects import CANARY, ECR, Content, app, login, project, table

HUB = "https://index.docker.io/v1/"
OTHER = "210987654321.dkr.ecr.us-east-1.amazonaws.com"
ABROAD = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
CHINA = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"
GAR = "us-central1-docker.pkg.dev"
GOOD = '"$AWS_ECR_PASSWORD"'
KEY64 = "_json_key_base64"
K = '"$K"'

ECR_TABLE = {"source": "ecr", "registry": ECR, "secret": "AWS_ECR_PASSWORD"}
GHCR_TABLE = {
    "source": "oci",
    "registry": "ghcr.io",
    "username": "octocat",
    "password": {"env": "GHCR_TOKEN"},
    "secret": "GHCR_TOKEN",
}


@dataclass(frozen=True)
class Case:
    """A project, and what is made of it."""

    name: str
    files: dict[str, Content]
    #: `app place source secret kind` of each finding, `-` for none.
    found: list[str] = field(default_factory=list)
    #: Words of the findings' advice, one after another.
    said: list[str] = field(default_factory=list)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def py(registries: str, **more: str) -> dict[str, Content]:
    return {"app.py": app(registries, **more)}


def one(key: str, password: str = GOOD, username: str = "AWS") -> str:
    return f'{{"{key}": {login(password, username)}}}'


def ecr_in(place: str = "app.py:4", name: str = "MyApp") -> list[str]:
    return [f"{name} {place} ecr AWS_ECR_PASSWORD reference"]


def same(name: str, files: dict[str, Content], place: str, **more: Any) -> Case:
    """One way more to say what comes to the usual ECR target."""
    return Case(name, files, ecr_in(place), ["target ecr: a new token"], {"ecr": ECR_TABLE}, **more)


PYTHON = [
    same("a-dictionary", py(one(ECR)), "app.py:4"),
    same(
        "the-constructor",
        {"a.py": f"class MyApp:\n  image = ContainerImage('FROM x', registries={one(ECR)})"},
        "a.py:2",
    ),
    same(
        "the-constructor-by-position",
        {"a.py": f"class MyApp:\n  image = ContainerImage('FROM x', {{}}, {one(ECR)})"},
        "a.py:2",
    ),
    same(
        "another-name-for-the-class",
        {
            "a.py": "from fal.container import ContainerImage as CI\n"
            f"class MyApp:\n  image = CI.from_dockerfile('x', registries={one(ECR)})"
        },
        "a.py:3",
    ),
    same(
        "another-name-by-assignment",
        {
            "a.py": "from fal import container\nCI = container.ContainerImage\n"
            f"class MyApp:\n  image = CI.from_dockerfile('x', registries={one(ECR)})"
        },
        "a.py:4",
    ),
    same("a-module-level-name", py("REG", before=f"REG = {one(ECR)}\n"), "app.py:1"),
    same(
        "a-name-for-each-part",
        py("{HOST: LOGIN}", before=f'HOST = "{ECR}"\nLOGIN = {login(GOOD)}\n'),
        "app.py:6",
    ),
    same(
        "an-f-string-of-constants",
        py(
            one("X").replace('"X"', 'f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"'),
            before='ACCOUNT = 123456789012\nREGION = "us-east-1"\n',
        ),
        "app.py:6",
    ),
    same(
        "strings-added",
        py(
            one("X").replace('"X"', 'A + ".dkr.ecr." "us-east-1" + ".amazonaws.com"'),
            before='A = "123456789012"\n',
        ),
        "app.py:5",
    ),
    same("dict-called", py(f'{{"{ECR}": dict(username="AWS", password={GOOD})}}'), "app.py:4"),
    same("a-spread", py("{**BASE, **{}}", before=f"BASE = {one(ECR)}\n"), "app.py:1"),
    same("a-union", py("{} | BASE", before=f"BASE = {one(ECR)}\n"), "app.py:1"),
    same(
        "an-entry-added-later",
        py("REG", before=f'REG = {{}}\nREG["{ECR}"] = {login(GOOD)}\n'),
        "app.py:2",
    ),
    same("an-update", py("REG", before=f"REG = dict()\nREG.update({one(ECR)})\n"), "app.py:2"),
    same("a-subscript", py('ALL["prod"]', before=f'ALL = {{"prod": {one(ECR)}}}\n'), "app.py:1"),
    same(
        "arguments-spread",
        {
            "a.py": f"OPTIONS = {{'registries': {one(ECR)}}}\n"
            "class MyApp:\n  image = ContainerImage.from_dockerfile('x', **OPTIONS)"
        },
        "a.py:1",
    ),
    same(
        "another-module",
        {
            **py("REGISTRIES", before="from common.reg import REGISTRIES\n"),
            "common/reg.py": f"REGISTRIES = {one(ECR)}",
        },
        "common/reg.py:1",
    ),
    same(
        "a-relative-import-of-a-module",
        {
            "p/app.py": app("conf.REG", before="from . import conf\n"),
            "p/conf.py": f"REG = {one(ECR)}",
        },
        "p/conf.py:1",
    ),
    same(
        "a-class-attribute",
        py("Settings.reg", before=f"class Settings:\n    reg = {one(ECR)}\n"),
        "app.py:2",
    ),
    same(
        "a-class-with-a-name-for-its-app",
        {
            "a.py": "class A(fal.App, name='MyApp'):\n"
            f"  image = ContainerImage('x', registries={one(ECR)})"
        },
        "a.py:2",
    ),
    same(
        "an-image-that-a-class-names",
        {
            "a.py": f"IMAGE = ContainerImage('x', registries={one(ECR)})\n"
            "class MyApp:\n  image = IMAGE"
        },
        "a.py:1",
    ),
    Case(
        "an-image-of-a-function",
        {"a.py": f"@fal.function(image=ContainerImage('x', registries={one(ECR)}))\ndef go(): ..."},
        ecr_in("a.py:1", "go"),
        targets={"ecr": ECR_TABLE},
    ),
    Case(
        "an-image-that-nothing-names",
        {"images.py": f"BASE = ContainerImage('x', registries={one(ECR)})"},
        ecr_in("images.py:1", "images"),
        targets={"ecr": ECR_TABLE},
    ),
    Case("no-registries", py("{}"), []),
    Case("registries-of-something-else", {"a.py": f"client.pull(registries={one(ECR)})"}, []),
]

TABLES = [
    same(
        "an-image",
        {"pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", name="MyApp")},
        "pyproject.toml:5",
    ),
    same(
        "registries-in-one-line",
        {
            "pyproject.toml": f'[tool.fal.apps.MyApp.image]\nimage = "x.io/{ECR}"\n'
            f'registries = {{ "{ECR}" = {{ username = "AWS", password = {GOOD} }} }}\n'
        },
        "pyproject.toml:3",
    ),
    Case(
        "a-dockerfile-with-two-stages",
        {
            "pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", image='dockerfile = "Dockerfile"'),
            "Dockerfile": "ARG TAG\nFROM python:3.13 AS base\nfrom --platform=linux/amd64 \\\n"
            f" {ECR}/team/app:1\n",
        },
        ecr_in("pyproject.toml:5", "a"),
        targets={"ecr": {**ECR_TABLE, "image": "team/app:1"}},
    ),
    Case(
        "a-dockerfile-with-a-build-argument",
        {
            "pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", image='dockerfile = "Dockerfile"'),
            "Dockerfile": f"ARG TAG\nFROM {ECR}/team/app:$TAG\n",
        },
        ecr_in("pyproject.toml:5", "a"),
        targets={"ecr": ECR_TABLE},
    ),
    Case(
        "a-dockerfile-that-is-not-there",
        {"pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", image='dockerfile = "no"')},
        ecr_in("pyproject.toml:5", "a"),
        targets={"ecr": ECR_TABLE},
    ),
    Case("a-project-that-is-not-fals", {"pyproject.toml": "[tool.other]\nregistries = 5\n"}),
    Case(
        "a-fal-project-of-odd-types",
        {"pyproject.toml": "[tool.fal.apps]\na = 5\n[tool.fal.apps.b]\nimage = 1\n"},
    ),
    Case(
        "no-password",
        {
            "pyproject.toml": "[tool.fal.apps.a.image.registries]\n"
            f'"{ECR}" = {{ username = "AWS" }}\n'
        },
        ["a pyproject.toml:2 ecr - literal"],
        ['not kept: the password is missing; use "$AWS_ECR_PASSWORD"'],
    ),
    Case(
        "a-host-without-quotes",
        {
            "pyproject.toml": "[tool.fal.apps.a.image]\n"
            '[tool.fal.apps.a.image.registries.ghcr.io]\nusername = "me"\npassword = "$T"\n'
        },
        ["a pyproject.toml:2 oci T reference"],
        ['not kept: TOML cuts the host at its dots; write registries."ghcr.io" with the quotes'],
    ),
    Case(
        "two-hosts-without-quotes",
        {
            "pyproject.toml": "[tool.fal.apps.a.image.registries]\n"
            + "".join(f"{host}.password = {GOOD}\n" for host in (ECR, ABROAD))
        },
        ["a pyproject.toml:1 ecr AWS_ECR_PASSWORD reference"] * 2,
        [f'write registries."{host}"' for host in (ECR, ABROAD)],
    ),
    Case(
        "a-host-of-a-thousand-parts",
        {"pyproject.toml": f"tool.fal.apps.a.image.registries.{'.'.join('a' * 1000)} = {{}}\n"},
        ["a pyproject.toml:1 oci - literal"],
        ["TOML cuts the host at its dots"],
    ),
]

KINDS = [
    Case(
        "docker-hub-by-another-key",
        py(one("docker.io", '"$DOCKERHUB_TOKEN"', "me")),
        ["MyApp app.py:4 dockerhub DOCKERHUB_TOKEN reference"],
        [
            (
                "target hub: verified all day, and published when it changes;"
                f" fal's documentation writes the key {HUB}"
            )
        ],
        {
            "hub": {
                "source": "dockerhub",
                "username": "me",
                "password": {"env": "DOCKERHUB_TOKEN"},
                "secret": "DOCKERHUB_TOKEN",
            }
        },
    ),
    Case(
        "ecr-public",
        py(one("public.ecr.aws", '"$PUBLIC"')),
        ["MyApp app.py:4 ecr-public PUBLIC reference"],
        ["public images pull anonymously, and a stale secret is worse than none"],
        {"public": {"source": "ecr-public", "registry": "public.ecr.aws", "secret": "PUBLIC"}},
    ),
    Case(
        "ecr-in-china",
        py(one(CHINA)),
        ecr_in(),
        targets={"ecr": {**ECR_TABLE, "registry": CHINA}},
    ),
    Case(
        "ecr-where-aws-has-no-region",
        py(one("123456789012.dkr.ecr.us-moon-1.amazonaws.com.cn")),
        ecr_in(),
        ["not kept: AWS has no such registry; look at the region"],
    ),
    Case(
        "ecr-with-another-user",
        py(one(ECR, username="aws")),
        ecr_in(),
        ["the user name must be AWS"],
        {"ecr": ECR_TABLE},
    ),
    Case(
        "a-google-token",
        py(one("europe-docker.pkg.dev/proj/repo", '"$GOOGLE_AR_TOKEN"', "oauth2accesstoken")),
        ["MyApp app.py:4 gar GOOGLE_AR_TOKEN reference"],
        ["a new token after a third of its life"],
        {
            "gar-token": {
                "source": "gar",
                "registry": "europe-docker.pkg.dev",
                "mode": "token",
                "secret": "GOOGLE_AR_TOKEN",
            }
        },
    ),
    Case(
        "gcr.io-with-a-raw-key",
        py(one("eu.gcr.io", '"$GCR_KEY"', "_json_key")),
        ["MyApp app.py:4 gar GCR_KEY reference"],
        ["verified all day"],
        {
            "gcr-key": {
                "source": "gar",
                "registry": "eu.gcr.io",
                "username": "_json_key",
                "key": {"env": "GCR_KEY"},
                "secret": "GCR_KEY",
            }
        },
    ),
    Case(
        "google-with-an-unknown-user",
        py(one(GAR, '"$KEY"', "me")),
        ["MyApp app.py:4 gar KEY reference"],
        [
            (
                "not kept: Artifact Registry knows the users _json_key_base64, _json_key and"
                " oauth2accesstoken alone"
            )
        ],
    ),
    Case(
        "an-unknown-host",
        py(
            one("GHCR.io", '"$GHCR_TOKEN"', "octocat"),
            image='"FROM ghcr.io/octocat/app@sha256:" "' + "0" * 64 + '"',
        ),
        ["MyApp app.py:4 oci GHCR_TOKEN reference"],
        ["target ghcr-token: verified all day"],
        {"ghcr-token": {**GHCR_TABLE, "image": f"octocat/app@sha256:{'0' * 64}"}},
    ),
    Case(
        "a-user-name-that-is-a-secret",
        py(one("ghcr.io", '"$GHCR_TOKEN"', "$GHCR_USER")),
        ["MyApp app.py:4 oci GHCR_TOKEN reference"],
        ["not kept: the user name is a secret itself; write the name"],
    ),
    Case(
        "a-user-name-that-is-computed",
        py('{"ghcr.io": {"username": os.environ["U"], "password": "$GHCR_TOKEN"}}'),
        ["MyApp app.py:4 oci GHCR_TOKEN reference"],
        ["not kept: the user name is missing or computed; write it as a constant"],
    ),
    Case(
        "a-user-name-that-the-configuration-refuses",
        py(one("ghcr.io", '"$GHCR_TOKEN"', "a b")),
        ["MyApp app.py:4 oci GHCR_TOKEN reference"],
        ["not kept: username: expected a user name without colon and white space"],
    ),
    Case(
        "a-key-that-is-no-host",
        py(one("not a host")),
        ["MyApp app.py:4 - AWS_ECR_PASSWORD reference"],
        ["the key is no host"],
    ),
    Case(
        "a-key-with-a-password-in-it",
        py(one(f"https://me:{CANARY}@ghcr.io")),
        ["MyApp app.py:4 - AWS_ECR_PASSWORD reference"],
        ["the key holds a user name or a password; write the host alone"],
    ),
]

PASSWORDS = [
    Case(
        "a-literal",
        py(one(ECR, f'"{CANARY}"')),
        ["MyApp app.py:4 ecr - literal"],
        [
            (
                "warning: a literal password stands here: dead 12 h after the deploy;"
                ' use "$AWS_ECR_PASSWORD"'
            )
        ],
    ),
    Case(
        "a-literal-that-does-not-end",
        {"pyproject.toml": table(HUB, CANARY, "me")},
        ["a pyproject.toml:5 dockerhub - literal"],
        ['for it is no secret any more; use "$DOCKERHUB_TOKEN"'],
    ),
    Case(
        "a-literal-that-begins-with-a-dollar",
        py(one("ghcr.io", f'"$${CANARY}"', "me")),
        ["MyApp app.py:4 oci - literal"],
        ['warning: a literal password stands here, whose "$$" fal takes for "$": replace it'],
    ),
    Case(
        "a-reference-with-more-behind-it",
        py(one(ECR, f'"$AWS-{CANARY}"')),
        ["MyApp app.py:4 ecr - literal"],
        [
            (
                'not kept: the password begins with "$" but is not "$NAME" as a whole, so fal puts'
                ' nothing in; use "$AWS_ECR_PASSWORD"'
            )
        ],
    ),
    Case(
        "a-reference-in-braces",
        {"pyproject.toml": table("ghcr.io", "${GHCR_TOKEN}", "octocat")},
        ["a pyproject.toml:5 oci - literal"],
        ['not kept: the password begins with "$" but is not "$NAME" as a whole'],
    ),
    Case(
        "an-empty-password",
        py(one(ECR, '""')),
        ["MyApp app.py:4 ecr - literal"],
        ['not kept: the password is empty; use "$AWS_ECR_PASSWORD"'],
    ),
    Case("a-number", py(one(ECR, "4711")), ["MyApp app.py:4 ecr - literal"], ["is no string"]),
    Case(
        "a-call",
        py(one(ECR, 'get_ecr_token("us-east-1")')),
        ["MyApp app.py:4 ecr - computed"],
        ['computed at deploy time: dead 12 h after the deploy; use "$AWS_ECR_PASSWORD"'],
    ),
    Case(
        "the-environment",
        py(one(HUB, 'os.environ["TOKEN"]', "me")),
        ["MyApp app.py:4 dockerhub - computed"],
        ['a new one needs a new deploy; use "$DOCKERHUB_TOKEN"'],
    ),
    Case(
        "an-f-string-with-a-call",
        py(one(GAR, 'f"{token()}"', "oauth2accesstoken")),
        ["MyApp app.py:4 gar - computed"],
        ['dead 1 h after the deploy; use "$GOOGLE_AR_TOKEN"'],
    ),
    Case(
        "a-name-with-two-values",
        py(one(ECR, "PASSWORD"), before='if prod: PASSWORD = "$A"\nelse: PASSWORD = "$B"\n'),
        ["MyApp app.py:6 ecr - computed"],
        ["computed at deploy time"],
    ),
    Case(
        "a-parameter",
        {
            "a.py": 'PASSWORD = "$A"\ndef go(PASSWORD):\n'
            f"  return ContainerImage('x', registries={one(ECR, 'PASSWORD')})"
        },
        ["go a.py:3 ecr - computed"],
        ["computed at deploy time"],
    ),
    Case(
        "a-name-for-itself",
        py(one(ECR, "A"), before="A = B\nB = A\n"),
        ["MyApp app.py:6 ecr - computed"],
        ["computed at deploy time"],
    ),
    Case(
        "registries-that-a-call-returns",
        py("registries()"),
        ["MyApp app.py:4 - - computed"],
        ["write them as a dictionary of constants"],
    ),
    Case(
        "registries-known-in-part",
        py(f"{{**more(), **{one(ECR)}}}"),
        ["MyApp app.py:4 - - computed", *ecr_in()],
        ["only running the code would tell the registries", "target ecr"],
        {"ecr": ECR_TABLE},
    ),
]

TOGETHER = [
    Case(
        "a-monorepo-that-shares-a-secret",
        {
            "a/pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", name="a"),
            "b/pyproject.toml": table(
                ECR, "$AWS_ECR_PASSWORD", name="b", image=f'image = "{ECR}/b:1"'
            ),
            "c/app.py": app(one(ECR)),
        },
        [
            *ecr_in("a/pyproject.toml:5", "a"),
            *ecr_in("b/pyproject.toml:5", "b"),
            *ecr_in("c/app.py:4"),
        ],
        ["target ecr: a new token"] * 3,
        {"ecr": {**ECR_TABLE, "image": "b:1"}},
    ),
    Case(
        "a-monorepo-with-a-secret-for-each",
        {
            "services/a/pyproject.toml": table(ECR, "$ECR_A", name="a"),
            "services/b/pyproject.toml": table(ABROAD, "$ECR_B", name="b"),
            "pyproject.toml": "[tool.uv.workspace]\nmembers = ['services/*']\n",
        },
        [
            "a services/a/pyproject.toml:5 ecr ECR_A reference",
            "b services/b/pyproject.toml:5 ecr ECR_B reference",
        ],
        ["target ecr-a: a new token", "target ecr-b: a new token"],
        {
            "ecr-a": {**ECR_TABLE, "secret": "ECR_A"},
            "ecr-b": {**ECR_TABLE, "registry": ABROAD, "secret": "ECR_B"},
        },
    ),
    Case(
        "a-monorepo-whose-apps-share-a-module",
        {
            "a/app.py": app("REG", before="from shared.registries import REG\n"),
            "b/app.py": app("registries.REG", before="from shared import registries\n").replace(
                "MyApp", "Other"
            ),
            "shared/registries.py": f"REG = {one(ECR)}\n",
        },
        [*ecr_in("shared/registries.py:1"), *ecr_in("shared/registries.py:1", "Other")],
        ["target ecr: a new token"] * 2,
        {"ecr": ECR_TABLE},
    ),
    Case(
        "a-monorepo-with-a-broken-member",
        {
            "a/pyproject.toml": table(ECR, "$AWS_ECR_PASSWORD", name="MyApp"),
            "b/pyproject.toml": "[tool.fal",
            "c/app.py": "registries = {",
        },
        ecr_in("a/pyproject.toml:5"),
        ["target ecr: a new token"],
        {"ecr": ECR_TABLE},
        ["b/pyproject.toml: not read: not TOML", "c/app.py: not read: line 1"],
    ),
    Case(
        "one-secret-for-two-accounts-of-a-region",
        py(f"{{**{one(ECR)}, **{one(OTHER)}}}"),
        ecr_in() * 2,
        [
            "target ecr: a new token",
            (
                "target ecr: a new token at the latest 4 h after the last;"
                f" good here as well, and proved against {ECR} alone"
            ),
        ],
        {"ecr": ECR_TABLE},
    ),
    Case(
        "one-secret-for-two-regions",
        py(f"{{**{one(ECR)}, **{one(ABROAD)}}}"),
        ecr_in() * 2,
        [
            "target ecr",
            (
                f"not kept: $AWS_ECR_PASSWORD holds what {ECR} wants (app.py:4),"
                " and a secret holds one value: use another secret here"
            ),
        ],
        {"ecr": ECR_TABLE},
    ),
    Case(
        "one-secret-for-two-kinds",
        py(f"{{**{one(ECR)}, **{one('ghcr.io', GOOD, 'me')}}}"),
        [
            "MyApp app.py:4 ecr AWS_ECR_PASSWORD reference",
            "MyApp app.py:4 oci AWS_ECR_PASSWORD reference",
        ],
        ["target ecr", "use another secret here"],
        {"ecr": ECR_TABLE},
    ),
    Case(
        "one-google-key-for-two-locations",
        py(f"{{**{one('eu.gcr.io', K, KEY64)}, **{one(GAR, K, KEY64)}}}"),
        ["MyApp app.py:4 gar K reference"] * 2,
        ["target k", "good here as well, and proved against eu.gcr.io alone"],
        {
            "k": {
                "source": "gar",
                "registry": "eu.gcr.io",
                "username": KEY64,
                "key": {"env": "K"},
                "secret": "K",
            }
        },
    ),
    Case(
        "one-registry-with-two-secrets",
        {"a.py": app(one(ECR)), "b.py": app(one(ECR, '"$ECR_B"'))},
        [*ecr_in("a.py:4"), "MyApp b.py:4 ecr ECR_B reference"],
        [
            "target ecr",
            (
                "target ecr-b: a new token at the latest 4 h after the last;"
                " $AWS_ECR_PASSWORD is for the same login: one would do"
            ),
        ],
        {"ecr": ECR_TABLE, "ecr-b": {**ECR_TABLE, "secret": "ECR_B"}},
    ),
    Case(
        "secrets-that-differ-in-case",
        {
            "a.py": app(one("ghcr.io", '"$GHCR_TOKEN"', "octocat")),
            "b.py": app(one("ghcr.io", '"$ghcr_token"', "you")),
        },
        ["MyApp a.py:4 oci GHCR_TOKEN reference", "MyApp b.py:4 oci ghcr_token reference"],
        ["target ghcr-token:", "target ghcr-token-2:"],
        {
            "ghcr-token": GHCR_TABLE,
            "ghcr-token-2": {
                **GHCR_TABLE,
                "username": "you",
                "password": {"env": "ghcr_token"},
                "secret": "ghcr_token",
            },
        },
    ),
]

BROKEN = [
    Case(
        "broken-toml",
        {"pyproject.toml": f"[tool\n# {CANARY}"},
        problems=["pyproject.toml: not read: not TOML: Expected ']'"],
    ),
    Case(
        "toml-that-is-not-utf-8",
        {"pyproject.toml": b"[tool]\nname = '\xff'"},
        problems=["pyproject.toml: not read: line 2 is not UTF-8"],
    ),
    Case(
        "toml-nested-too-deeply",
        {"pyproject.toml": "a = " + "[" * 5000},
        problems=["pyproject.toml: not read: nested too deeply"],
    ),
    Case(
        "a-syntax-error",
        {"a.py": f"registries = (\n{CANARY!r}\n\nclass"},
        problems=["a.py: not read: line "],
    ),
    Case("a-syntax-error-elsewhere", {"a.py": "class"}),
    Case(
        "python-that-is-not-utf-8",
        {"a.py": b"registries = '\xff'\n"},
        problems=["a.py: not read: it is not UTF-8"],
    ),
    same(
        "python-in-another-encoding",
        {"app.py": b"# coding: latin-1 \xe4\n" + app(one(ECR)).encode()},
        "app.py:5",
    ),
    Case(
        "python-with-a-nul",
        {"a.py": b"registries = '\0'"},
        problems=["a.py: not read: it is not Python"],
    ),
    Case(
        "python-nested-too-deeply",
        {"a.py": "registries = " + "(" * 5000},
        problems=["a.py: not read: "],
    ),
    Case(
        "a-long-sum",
        {"a.py": "registries = " + "+".join(["'a'"] * 3000)},
        problems=["a.py: not read: it is nested too deeply"],
    ),
    Case(
        "a-string-that-doubles",
        py(
            one(ECR, "S60"),
            before='S0 = "aa"\n' + "".join(f"S{n} = S{n - 1} + S{n - 1}\n" for n in range(1, 61)),
        ),
        ["MyApp app.py:65 ecr - computed"],
    ),
    same("a-bad-escape", {"app.py": app(one(ECR)) + 'X = "\\d"\n'}, "app.py:4"),
    Case(
        "a-huge-file",
        {"a.py": b"#" * (1024 * 1024 + 1)},
        problems=["a.py: skipped: it is larger than 1 MiB"],
    ),
    Case(
        "other-peoples-code",
        {
            f"{name}/a.py": app(one(ECR))
            for name in ("venv", ".tox", "node_modules", "x/site-packages", "dist")
        },
    ),
    Case("an-environment-of-any-name", {"env/pyvenv.cfg": "", "env/a.py": app(one(ECR))}),
    Case("nothing-at-all", {}),
]

CASES = [*PYTHON, *TABLES, *KINDS, *PASSWORDS, *TOGETHER, *BROKEN]


def row(finding: Finding) -> str:
    words = (finding.app, finding.place, finding.source or "-", finding.secret or "-")
    return " ".join(map(str, (*words, finding.password)))


def everything(found: Discovery) -> str:
    problems = [str(problem) for problem in found.problems]
    return json.dumps([repr(found.findings), found.tables, problems])


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_project_is_read(tmp_path: Path, case: Case) -> None:
    """What is found, what is said, what would be kept; a credential in a source goes nowhere."""
    found = discover(project(tmp_path, case.files))
    assert [row(finding) for finding in found.findings] == case.found
    for finding, words in zip(found.findings, case.said, strict=bool(case.said)):
        assert words in finding.advice
    assert found.tables == case.targets
    assert len(found.problems) == len(case.problems)
    for problem, words in zip(found.problems, case.problems, strict=True):
        assert str(problem).startswith(words)
    assert CANARY not in everything(found)


def test_there_are_many_projects_and_no_two_are_alike() -> None:
    """A row that is lost is noticed; fal's own examples and the large folders come on top."""
    assert len(CASES) == 91
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({repr(sorted(case.files.items())) for case in CASES}) == len(CASES)
