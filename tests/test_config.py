"""The configuration: what a file may say, what each mistake is called, and what is never shown."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from refresher.config import (
    Config,
    Context,
    PolicySettings,
    active,
    build,
    check_references,
    effective,
    format_duration,
    load,
    parse,
    parse_duration,
    policy_of,
    schema,
)
from refresher.config.root import Config as Root
from refresher.config.sections import Account, Daemon, DockerHub, Fal, Google
from refresher.config.targets import TARGETS, Aws
from refresher.errors import ConfigError, Misconfigured
from refresher.model import Policy
from refresher.references import Reference

EXAMPLE = Path(__file__).resolve().parent.parent / "config" / "refresher.toml"
CANARY = "canary-4f1d.8s3cr3t"
ENVIRON = {"HOME": "/home/u", "FAL_KEY": "id:secret", "TOKEN": "t"}
ECR = {"source": "ecr", "registry": "1.dkr.ecr.us-east-1.amazonaws.com", "secret": "A"}
HUB = {"source": "dockerhub", "username": "me", "password": {"env": "TOKEN"}, "secret": "B"}
OCI = {**HUB, "source": "oci", "registry": "ghcr.io", "secret": "C"}
GAR = {"source": "gar", "registry": "us-docker.pkg.dev", "secret": "D", "key": {"env": "TOKEN"}}
NO_DURATION = (
    "is not a duration; write a whole number above 0 and its unit,"
    ' such as "90s", "15m", "4h" or "14d"'
)
LITERAL = 'a literal is not allowed here; use { env = "NAME" } or { file = "PATH" }'


def read(data: dict[str, Any], environ: dict[str, str] = ENVIRON, **more: Any) -> Config:
    return build(data, Context("c.toml", Path("/etc/r"), environ), **more)


def target(table: dict[str, Any], **keys: Any) -> Any:
    return read({"targets": {"t": {**table, **keys}}}).targets["t"]


def problems(data: dict[str, Any], environ: dict[str, str] = ENVIRON, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(data, environ, **more)
    assert all(line.startswith("c.toml: ") and "\n" not in line for line in caught.value.problems)
    return [line.removeprefix("c.toml: ") for line in caught.value.problems]


def of_target(table: dict[str, Any], **keys: Any) -> list[str]:
    return problems({"targets": {"t": {**table, **keys}}})


class TestFile:
    def test_a_file_is_read(self, tmp_path: Path) -> None:
        """A minimal file gives a config with every default in place."""
        path = tmp_path / "r.toml"
        path.write_text('[targets.ecr]\nsource="ecr"\nregistry="r.example"\nsecret="A"\n')
        config = load(path, ENVIRON)
        assert config.targets["ecr"].environments == ("main",)
        assert config.fal.key == Reference(env="FAL_KEY")
        assert config.fal.host == "api.alpha.fal.ai"
        assert config.daemon.address == ("127.0.0.1", 9478)
        assert config.problem("x.y", "z") == f"{path}: x.y: z"

    def test_relative_files_start_at_the_folder_of_the_config(self, tmp_path: Path) -> None:
        """A relative path means the same whatever the working directory is; `~/` is HOME."""
        path = tmp_path / "r.toml"
        path.write_text(
            '[targets.h]\nsource="oci"\nregistry="r.io"\nusername="u"\nsecret="A"\n'
            'password={file="pw"}\n[daemon]\napi_token={file="~/tok"}\nca_bundle="ca.pem"\n'
        )
        (tmp_path / "ca.pem").write_text("pem")
        config = load(path, ENVIRON)
        assert config.targets["h"].password == Reference(file=tmp_path / "pw")
        assert config.daemon.api_token == Reference(file=Path("/home/u/tok"))
        assert config.daemon.ca_bundle == tmp_path / "ca.pem"

    def test_a_byte_order_mark_is_no_mistake(self) -> None:
        """Editors that write a byte order mark are common, so it is skipped."""
        text = b'\xef\xbb\xbf[targets.e]\nsource="ecr"\nregistry="r.io"\nsecret="A"\n'
        assert parse(text, "c.toml", ENVIRON).targets["e"].secret == "A"

    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"", "c.toml: targets: there are none; add a table such as [targets.ecr]"),
            (b"[targets]\n", "c.toml: targets: there are none"),
            (b"[daemon]\nworkers == 8\n", "c.toml: not TOML: Invalid value (at line 2, column 10)"),
            (b"[daemon]\n# \xff\n", "c.toml: line 2: not UTF-8"),
            (b"a = " + b"[" * 5000, "c.toml: not a configuration: nested too deeply"),
            (b"a = " + b"1" * 5000, "c.toml: not TOML: a number has too many digits"),
            (b"targets = 5", "c.toml: targets: expected a table"),
            (b"targets.a = 5", "c.toml: targets.a: expected a table"),
        ],
        ids=[
            "empty",
            "no-targets",
            "syntax",
            "latin-1",
            "deep",
            "digits",
            "scalar",
            "scalar-target",
        ],
    )
    def test_a_text_that_is_no_configuration(self, raw: bytes, problem: str) -> None:
        """Each kind of broken text has one clear line."""
        with pytest.raises(ConfigError) as caught:
            parse(raw, "c.toml", ENVIRON)
        (line,) = caught.value.problems
        assert line.startswith(problem)

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        """A missing file, a folder and a huge file are each told by their path."""
        huge = tmp_path / "huge.toml"
        huge.write_bytes(b"#" * (16 * 1024 * 1024 + 1))
        for path, text in (
            (tmp_path / "none.toml", "cannot be read: No such file or directory"),
            (tmp_path, "cannot be read: Is a directory"),
            (huge / "below", "cannot be read: Not a directory"),
            (tmp_path / "nul\0", "cannot be read: not a path"),
            (huge, "larger than 16 MiB, which no configuration is"),
        ):
            with pytest.raises(ConfigError) as caught:
                load(path, ENVIRON)
            assert caught.value.problems[0].endswith(text)


class TestProblems:
    def test_all_are_reported_together(self) -> None:
        """One run shows every problem: of syntax, of fit and of references."""
        lines = problems(
            {
                "daemon": {"listen": "9478", "histroy": "30d"},
                "fal": {"key": "id:secret"},
                "policy": {"retry_first": "90"},
                "targets": {
                    "a": {**ECR, "registy": "x"},
                    "b": {**ECR, "account": "other"},
                    "c": ECR,
                    "d": {**HUB, "password": {"env": "UNSET"}},
                    "e": {"source": "dockerhup"},
                },
            }
        )
        assert lines == [
            'daemon.listen: "9478" names no port; expected HOST:PORT, as "127.0.0.1:9478"',
            'daemon.histroy: unknown key; did you mean "history"?',
            f"fal.key: {LITERAL}",
            f'policy.retry_first: "90" {NO_DURATION}',
            'targets.a.registy: unknown key; did you mean "registry"?',
            'targets.e.source: "dockerhup" is no source; did you mean "dockerhub"?',
            'targets.b.account: "other" is no fal account; known here: default',
            "targets.c.secret: A (main) is published by targets.a already",
            "targets.d.password: environment variable UNSET is not set",
        ]

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            ({"targetz": {}}, 'targetz: unknown key; did you mean "targets"?'),
            ({"fal": {"hots": "x"}}, 'fal.hots: unknown key; did you mean "host"?'),
            (
                {"google": {"cert_url": "x"}},
                'google.cert_url: unknown key; did you mean "certs_url"',
            ),
            ({"policy": {"jiter": 0}}, 'policy.jiter: unknown key; did you mean "jitter"?'),
            (
                {"fal": {"accounts": {"x": {"key": {"env": "TOKEN"}, "tsl": True}}}},
                'fal.accounts.x.tsl: unknown key; did you mean "tls"?',
            ),
            ({"a\nb": 1}, '"a\\nb": unknown key; known here: daemon, dockerhub, fal'),
        ],
    )
    def test_unknown_keys_lead_to_the_nearest(self, data: dict[str, Any], problem: str) -> None:
        """A key that is none is shown with the known one that looks most like it."""
        (line,) = problems({"targets": {"t": ECR}, **data})
        assert line.startswith(problem)

    def test_unknown_keys_below_a_target(self) -> None:
        """The tables inside a target know their own keys, and other sources' keys are told so."""
        *inner, foreign = of_target(
            ECR, aws={"rolearn": "x"}, policy={"retry_frist": "1s"}, password="x"
        )
        assert inner == [
            'targets.t.policy.retry_frist: unknown key; did you mean "retry_first"?',
            'targets.t.aws.rolearn: unknown key; did you mean "role_arn"?',
        ]
        known = "a key of source dockerhub and oci only; known here: account, aws, default_exposed,"
        assert foreign.startswith(f"targets.t.password: {known}")

    @pytest.mark.parametrize(
        ("section", "keys", "problem"),
        [
            ("daemon", {"workers": "8"}, "daemon.workers: expected a whole number"),
            ("daemon", {"workers": True}, "daemon.workers: expected a whole number"),
            (
                "daemon",
                {"workers": 0},
                "daemon.workers: expected a number greater than or equal to 1",
            ),
            (
                "daemon",
                {"workers": 65},
                "daemon.workers: expected a number less than or equal to 64",
            ),
            (
                "daemon",
                {"log_format": "xml"},
                'daemon.log_format: expected "auto", "console" or "json"',
            ),
            ("daemon", {"notify": "x"}, "daemon.notify: expected a list"),
            ("daemon", {"listen": 9478}, "daemon.listen: expected a string"),
            ("daemon", {"listen": ":9478"}, 'daemon.listen: ":9478" is not a host'),
            ("daemon", {"listen": "[::1"}, 'daemon.listen: "[::1" is not a host'),
            ("daemon", {"listen": "[1::2::3]:1"}, 'daemon.listen: "[1::2::3]:1" is not a host'),
            ("daemon", {"listen": "h:65536"}, 'daemon.listen: "h:65536" is not a host'),
            ("daemon", {"history": "59s"}, "daemon.history: 59s is not between 1h and 3650d"),
            ("daemon", {"state": "mysql://x"}, 'daemon.state: expected "sqlite:///PATH" or'),
            ("daemon", {"ca_bundle": 3}, "daemon.ca_bundle: expected the path of a file"),
            (
                "daemon",
                {"ca_bundle": "no.pem"},
                "daemon.ca_bundle: cannot read /etc/r/no.pem: No such",
            ),
            ("policy", {"jitter": float("nan")}, "policy.jitter: expected a finite number"),
            ("policy", {"jitter": "0.1"}, "policy.jitter: expected a number"),
            (
                "policy",
                {"jitter": 0.6},
                "policy.jitter: expected a number less than or equal to 0.5",
            ),
            (
                "policy",
                {"refresh_fraction": 0.9},
                "policy.refresh_fraction: makes a credential urgent",
            ),
            ("policy", {"retry_first": "6m"}, "policy.retry_first: is longer than retry_cap"),
            ("policy", {"guard_floor": "2m"}, "policy.guard_floor: is longer than guard_ceiling"),
            ("policy", {"expiry_warnings": "7d"}, "policy.expiry_warnings: expected a list"),
            ("fal", {"tls": False}, "fal.tls: false is allowed for a host on loopback only"),
            ("fal", {"host": "https://x"}, 'fal.host: "https://x" is not a host'),
            (
                "fal",
                {"accounts": {"default": {"key": {"env": "TOKEN"}}}},
                "fal.accounts.default: this account is [fal] itself",
            ),
            ("fal", {"accounts": {"x": {}}}, "fal.accounts.x.key: missing; it is required"),
            (
                "google",
                {"token_uris": ["http://x.io"]},
                "google.token_uris[0]: plain HTTP is allowed",
            ),
            ("dockerhub", {"api_url": "ftp://x"}, "dockerhub.api_url: expected a URL such as"),
        ],
    )
    def test_a_value_that_does_not_fit(self, section: str, keys: Any, problem: str) -> None:
        """Wrong types, ranges and forms are told in TOML's words at the key's path."""
        lines = problems({"targets": {"t": ECR}, section: keys})
        assert lines[0].startswith(problem)

    @pytest.mark.parametrize(
        ("table", "keys", "problem"),
        [
            (ECR, {"registry": "foo example"}, 'registry: "foo example" is not a host'),
            (ECR, {"registry": "http://r.io"}, "registry: name the registry by its host"),
            (ECR, {"secret": "A-B"}, "secret: expected a name that fal can set"),
            (ECR, {"secret": "A" * 129}, "secret: expected a name that fal can set"),
            (ECR, {"environments": []}, "environments: expected a list of at least 1"),
            (ECR, {"environments": "main"}, "environments: expected a list"),
            (ECR, {"environments": [""]}, "environments[0]: expected the name of a fal"),
            (ECR, {"environments": ["a", "a"]}, 'environments: "a" is named twice'),
            (ECR, {"username": "me"}, 'username: expected "AWS"'),
            (ECR, {"verify": "never"}, 'verify: expected "auto" or "always"'),
            (
                ECR,
                {"registry_url": "http://r.io"},
                "registry_url: plain HTTP is allowed on loopback",
            ),
            (
                ECR,
                {"registry_url": "https://r.io/?a=b"},
                "registry_url: expected a URL without query",
            ),
            (ECR, {"enabled": "no"}, "enabled: expected true or false"),
            (ECR, {"image": ""}, "image: expected an image such as team/app:tag"),
            (ECR, {"aws": {"role_arn": "x"}}, "aws.role_arn[0]: expected a role such as"),
            (ECR, {"aws": {"duration": "1h"}}, "aws.duration: needs role_arn"),
            (ECR, {"aws": {"duration": "14m"}}, "aws.duration: 14m is not between 15m and 12h"),
            (
                ECR,
                {"aws": {"access_key_id": {"env": "TOKEN"}}},
                "aws.secret_access_key: access_key_id and secret_access_key go together",
            ),
            (
                ECR,
                {"aws": {"role_arn": ["arn:aws:iam::123456789012:role/a"] * 2, "duration": "2h"}},
                "aws.duration: AWS allows a chain of roles 1h at most",
            ),
            (ECR, {"source": "ecr-public"}, 'registry: expected "public.ecr.aws" or'),
            (GAR, {"mode": "token", "username": "_json_key"}, 'username: is not what mode "token"'),
            (GAR, {"impersonate": "a@b.c"}, 'impersonate: needs mode = "token"'),
            (GAR, {"mode": "token", "impersonate": ["me"]}, "impersonate[0]: expected the e-mail"),
            (GAR, {"mode": "token", "lifetime": "1h"}, "lifetime: needs impersonate"),
            (HUB, {"registry": "ghcr.io"}, 'registry: expected "docker.io"; for other registries'),
            (HUB, {"expires_on": "2027-03-01"}, "expires_on: expected a date without quotes"),
            (
                HUB,
                {"policy": {"retry_first": "9m"}},
                "policy.retry_first: is longer than retry_cap",
            ),
        ],
    )
    def test_a_key_of_a_target_that_does_not_fit(
        self, table: dict[str, Any], keys: dict[str, Any], problem: str
    ) -> None:
        """Each source's keys are judged by that source's rules."""
        assert of_target(table, **keys)[0].startswith(f"targets.t.{problem}")

    @pytest.mark.parametrize("name", ["A", "", "-a", "a" * 64, "a.b", "a\nb", "a "])
    def test_a_target_name_that_is_none(self, name: str) -> None:
        """Names outside of the grammar are refused at their own path."""
        (line,) = problems({"targets": {name: ECR}})
        assert re.match("targets.*: expected a name", line)

    def test_a_secret_has_one_target(self) -> None:
        """Two targets may share a secret's name only in other environments, accounts, or parked."""
        other = {**ECR, "registry": "2.io"}
        assert problems({"targets": {"a": ECR, "b": {**other, "environments": ["x", "main"]}}}) == [
            "targets.b.secret: A (main) is published by targets.a already"
        ]
        fal = {"accounts": {"acme": {"key": {"env": "TOKEN"}}}}
        for keys in ({"environments": ["x"]}, {"account": "acme"}, {"enabled": False}):
            read({"fal": fal, "targets": {"a": ECR, "b": {**other, **keys}}})


class TestValues:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("90s", 90), ("15m", 900), ("4h", 14400), ("14d", 1209600)]
    )
    def test_durations(self, text: str, seconds: int) -> None:
        """The four units are read, and written back as they were."""
        assert parse_duration(text) == timedelta(seconds=seconds)
        assert format_duration(timedelta(seconds=seconds)) == text

    @pytest.mark.parametrize(
        "text",
        ["", "0s", "-1s", "1", "1w", "1 h", "1h30m", "1.5h", "01h", "٣s", "9999999d", 5, None],
    )
    def test_impossible_durations(self, text: object) -> None:
        """Nothing else is a duration: no zero, no sign, no fraction, no other unit or digit."""
        with pytest.raises(ValueError, match=r"is not a duration|longer than ten years"):
            parse_duration(text)

    @given(st.integers(min_value=1, max_value=3650 * 86400))
    def test_every_duration_is_read_back(self, seconds: int) -> None:
        """What is written for a duration is read as the same duration."""
        assert (
            parse_duration(format_duration(timedelta(seconds=seconds))).total_seconds() == seconds
        )

    @pytest.mark.parametrize(
        ("text", "host"),
        [
            ("GHCR.io", "ghcr.io"),
            ("https://ghcr.io/v2/", "ghcr.io"),
            ("HTTPS://ghcr.io", "ghcr.io"),
            ("localhost:5000", "localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
        ],
    )
    def test_a_registry_is_named_by_its_host(self, text: str, host: str) -> None:
        """Scheme, path and case, which people paste along, are taken off."""
        assert target(OCI, registry=text).registry == host

    def test_docker_hub_has_one_name(self) -> None:
        """The key that fal wants for Docker Hub means docker.io."""
        assert target(HUB).registry == "docker.io"
        assert target(HUB, registry="https://index.docker.io/v1/").registry == "docker.io"

    @pytest.mark.parametrize(
        ("listen", "address"),
        [("[::1]:80", ("::1", 80)), ("0.0.0.0:0", ("0.0.0.0", 0)), ("Host:1", ("host", 1))],
    )
    def test_listen(self, listen: str, address: tuple[str, int]) -> None:
        """An address is a host, in brackets where it is IPv6, and a port."""
        config = read({"daemon": {"listen": listen}, "targets": {"t": ECR}})
        assert config.daemon.address == address

    def test_a_role_or_a_chain(self) -> None:
        """A role alone is a chain of one."""
        roles = [f"arn:aws-cn:iam::123456789012:role/path/{name}" for name in "ab"]
        assert target(ECR, aws={"role_arn": roles[0]}).aws.role_arn == (roles[0],)
        assert target(ECR, aws={"role_arn": roles}).aws.role_arn == tuple(roles)

    def test_the_google_user_follows_the_mode(self) -> None:
        """Each mode has the user name that its credential is used with."""
        assert target(GAR).username == "_json_key_base64"
        assert target(GAR, username="_json_key").username == "_json_key"
        token = {key: value for key, value in GAR.items() if key != "key"}
        assert target(token, mode="token").username == "oauth2accesstoken"
        assert of_target(token) == ['targets.t.key: missing; mode "key" publishes it']

    def test_a_date(self) -> None:
        """TOML's own date is the day on which a token ends."""
        assert target(HUB, expires_on=date(2027, 3, 1)).expires_on == date(2027, 3, 1)

    def test_plain_http_on_loopback(self) -> None:
        """Stand-ins on loopback are reached without TLS."""
        url = "http://127.0.0.1:5000/"
        assert target(ECR, registry_url=url).registry_url == url.rstrip("/")
        fal = {"host": "[::1]:50051", "tls": False}
        assert not read({"fal": fal, "targets": {"t": ECR}}).fal.tls

    def test_nothing_can_be_changed(self) -> None:
        """A config is frozen."""
        with pytest.raises(ValueError, match="frozen"):
            read({"targets": {"t": ECR}}).daemon.workers = 3


class TestEnvironment:
    @pytest.mark.parametrize(
        ("environ", "url"),
        [
            ({"STATE_DIRECTORY": "/var/lib/r:/b"}, "sqlite:////var/lib/r/refresher.db"),
            ({"XDG_STATE_HOME": "/x"}, "sqlite:////x/refresher/refresher.db"),
            ({"XDG_STATE_HOME": "x"}, "sqlite:////home/u/.local/state/refresher/refresher.db"),
            ({}, "sqlite:////home/u/.local/state/refresher/refresher.db"),
        ],
    )
    def test_where_the_state_is_by_default(self, environ: dict[str, str], url: str) -> None:
        """systemd's folder goes before XDG's, which goes before the home directory."""
        config = read({"targets": {"t": ECR}}, {**ENVIRON, **environ})
        assert config.daemon.state_url({}).reveal() == url

    def test_a_state_without_a_home(self) -> None:
        """Where the environment names no folder the file must."""
        lines = problems({"targets": {"t": ECR}}, {"FAL_KEY": "x"})
        assert lines[0].startswith("daemon.state: set it; there is no STATE_DIRECTORY")

    def test_a_state_that_is_a_secret(self) -> None:
        """A URL with a password is a reference, read when it is needed."""
        daemon = {"state": {"env": "URL"}}
        config = read(
            {"daemon": daemon, "targets": {"t": ECR}}, {**ENVIRON, "URL": "postgresql://"}
        )
        assert config.daemon.state_url({"URL": "sqlite://"}).reveal() == "sqlite://"
        with pytest.raises(Misconfigured, match="URL is not set"):
            config.daemon.state_url({})

    def test_the_host_of_fal(self) -> None:
        """FAL_GRPC_HOST replaces the default, and the file goes before it."""
        environ = {**ENVIRON, "FAL_GRPC_HOST": "localhost:1"}
        table: dict[str, Any] = {"targets": {"t": ECR}, "fal": {}}
        assert read(table, environ).fal.host == "localhost:1"
        assert read({"targets": {"t": ECR}}, environ).fal.host == "localhost:1"
        table["fal"] = {"host": "h", "accounts": {"x": {"key": {"env": "TOKEN"}}}}
        config = read(table, environ)
        assert [a.host for a in config.accounts.values()] == ["h", "localhost:1"]
        (line,) = problems({"targets": {"t": ECR}}, {**ENVIRON, "FAL_GRPC_HOST": "a b"})
        assert line.startswith('fal: environment variable FAL_GRPC_HOST: "a b" is not a host')

    def test_unset_and_empty_variables(self) -> None:
        """A variable cannot appear later, so one that is unset or empty is a problem at once."""
        data = {"targets": {"t": HUB}}
        assert problems(data, {"HOME": "/", "TOKEN": " "}) == [
            "fal.key: environment variable FAL_KEY is not set",
            "targets.t.password: environment variable TOKEN is empty",
        ]
        assert read(data, {"HOME": "/"}, follow="nothing").targets

    def test_what_is_not_in_use_may_be_missing(self) -> None:
        """Parked targets and accounts that nobody names are not looked at."""
        fal = {"accounts": {"x": {"key": {"env": "UNSET"}}, "y": {"key": {"env": "TOKEN"}}}}
        parked = {**HUB, "password": {"env": "UNSET"}, "account": "x", "enabled": False}
        data = {"fal": fal, "targets": {"a": parked, "b": {**ECR, "account": "y"}}}
        config = read(data, {"HOME": "/", "TOKEN": "t"})
        assert list(active(config)) == ["b"]

    def test_missing_files(self, tmp_path: Path) -> None:
        """A file may come later, so it is looked at only where that is asked for."""
        data: dict[str, Any] = {"targets": {"t": {**HUB, "password": {"file": "pw"}}}}
        context = Context("c.toml", tmp_path, ENVIRON)
        config = build(data, context)
        missing = f"targets.t.password: cannot read {tmp_path}/pw: No such file or directory"
        assert check_references(config, ENVIRON, files=False) == []
        assert check_references(config, ENVIRON, files=True) == [missing]
        with pytest.raises(ConfigError) as caught:
            build(data, context, follow="files")
        assert caught.value.problems == (f"c.toml: {missing}",)
        (tmp_path / "pw").write_text("\n")
        assert check_references(config, ENVIRON, files=True) == [
            f"targets.t.password: file {tmp_path}/pw is empty"
        ]
        (tmp_path / "pw").write_text("x\n")
        assert build(data, context, follow="files") == config


class TestPolicy:
    def test_every_number_is_a_key(self) -> None:
        """[policy] has the fields of the policy, with its defaults."""
        assert set(PolicySettings.model_fields) == {field.name for field in fields(Policy)}
        config = read({"targets": {"t": ECR}})
        assert policy_of(config, config.targets["t"]) == Policy()

    def test_the_nearest_level_decides(self) -> None:
        """A target's number goes before [policy]'s, and that before the source's own."""
        hours = {"t": "3h", "p": "2h"}
        for own, general, expected in (
            ({}, {}, 6),
            ({}, {"check_interval": hours["p"]}, 2),
            ({"check_interval": hours["t"]}, {"check_interval": hours["p"]}, 3),
        ):
            config = read({"policy": general, "targets": {"t": {**HUB, "policy": own}}})
            policy = policy_of(config, config.targets["t"])
            assert policy.check_interval == timedelta(hours=expected)
            assert policy.retry_cap == Policy().retry_cap

    def test_warnings_come_longest_first(self) -> None:
        """Days ahead may be given in any order, and twice."""
        table = {"policy": {"expiry_warnings": ["1d", "7d", "1d"]}, "targets": {"t": ECR}}
        config = read(table)
        days = [item.days for item in policy_of(config, config.targets["t"]).expiry_warnings]
        assert days == [7, 1]


# Every place in the file where a secret belongs: a path, and the target that it needs.
SECRETS: list[tuple[tuple[str | int, ...], dict[str, Any]]] = [
    (("daemon", "api_token"), ECR),
    (("daemon", "heartbeat_url"), ECR),
    (("daemon", "fingerprint_key"), ECR),
    (("daemon", "notify", 0), ECR),
    (("fal", "key"), ECR),
    (("fal", "accounts", "x", "key"), ECR),
    *((("targets", "t", "aws", key), ECR) for key in Aws.model_fields if "_key" in key),
    (("targets", "t", "aws", "external_id"), ECR),
    (("targets", "t", "aws", "session_token"), ECR),
    (("targets", "t", "key"), GAR),
    (("targets", "t", "password"), HUB),
    (("targets", "t", "password"), OCI),
]


def placed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """`value` at `path` in otherwise empty tables."""
    for part in reversed(path):
        value = [value] if isinstance(part, int) else {part: value}
    assert isinstance(value, dict)
    return value


def with_secret(
    path: tuple[str | int, ...], table: dict[str, Any], value: object
) -> dict[str, Any]:
    data = placed(path, value)
    given_target = data.get("targets", {}).get("t", {})
    return {**data, "targets": {"t": {**table, **given_target}}}


class TestSecrets:
    @pytest.mark.parametrize(("path", "table"), SECRETS)
    @pytest.mark.parametrize(
        "value",
        [
            CANARY,
            [CANARY],
            {"env": CANARY},
            {"value": CANARY},
            {"env": "A", "file": CANARY},
            {"env": [CANARY]},
            {"file": {"x": CANARY}},
            {},
        ],
        ids=[
            "literal",
            "list",
            "env-value",
            "other-key",
            "both",
            "env-list",
            "file-table",
            "empty",
        ],
    )
    def test_a_literal_is_refused_and_not_shown(
        self, path: tuple[str | int, ...], table: dict[str, Any], value: object
    ) -> None:
        """Whatever stands where a reference belongs, no part of the error repeats it."""
        with pytest.raises(ConfigError) as caught:
            read(with_secret(path, table, value))
        error = caught.value
        assert any(
            "{ env = " in line or "env takes" in line or "path of a file" in line
            for line in error.problems
        )
        assert CANARY not in f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"

    @pytest.mark.parametrize(
        "data",
        [
            {"daemon": {"state": f"postgresql://u:{CANARY}@h/db"}},
            {"daemon": {"state": f"postgresql://u:{CANARY}/x#@h/db"}},
            {"daemon": {"state": f"postgresql://h/db?password={CANARY}"}},
            {"fal": {"host": f"u:{CANARY}@h"}},
            {"fal": {"api_key": CANARY}},
            {"google": {"certs_url": f"https://u:{CANARY}@h/"}},
            {"targets": {"t": {**HUB, "username": f"me:{CANARY}"}}},
            {"targets": {"t": {**HUB, "secret": CANARY}}},
            {"targets": {"t": {**HUB, "registry": f"https://u:{CANARY}@docker.io"}}},
            {"targets": {"t": {**HUB, "pasword": CANARY}}},
            {"targets": {"t": {**ECR, "password": CANARY}}},
        ],
    )
    def test_a_secret_at_a_wrong_place_is_not_shown(self, data: dict[str, Any]) -> None:
        """A password inside a URL, a user name or an unknown key stays out of the error."""
        with pytest.raises(ConfigError) as caught:
            read({"targets": {"t": ECR}, **data})
        assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r}"

    def test_the_test_knows_every_secret(self) -> None:
        """A key of the schema that takes a reference stands in the list above."""
        found = {
            (name, key)
            for name, table in {"Config": schema(), **schema()["$defs"]}.items()
            for key, value in table["properties"].items()
            if '"env"' in json.dumps(value)
        }
        known = {path[-1] if isinstance(path[-1], str) else path[-2] for path, _ in SECRETS}
        assert {key for _, key in found} - {"state"} == known


class TestShowing:
    def test_what_is_in_effect_holds_every_key_and_no_value(self) -> None:
        """Defaults are filled in, and a reference is shown by its name."""
        hub = {**HUB, "expires_on": date(2027, 3, 1), "policy": {"retry_first": "7s"}}
        config = read({"daemon": {"api_token": {"file": "tok"}}, "targets": {"h": hub}})
        shown = effective(config)
        assert shown == json.loads(json.dumps(shown)) == effective(config)
        assert shown["fal"]["key"] == {"env": "FAL_KEY"}
        assert shown["daemon"]["api_token"] == {"file": "/etc/r/tok"}
        assert shown["daemon"]["history"] == "30d"
        entry = shown["targets"]["h"]
        assert entry["password"] == {"env": "TOKEN"}
        assert entry["expires_on"] == "2027-03-01"
        assert entry["policy"]["retry_first"] == "7s"
        assert entry["policy"]["check_interval"] == "6h"
        assert set(entry) == set(TARGETS["dockerhub"].model_fields)
        assert set(entry["policy"]) == set(PolicySettings.model_fields)

    def test_what_is_in_effect_loads_again(self) -> None:
        """Less the nulls, which TOML has not, it is a configuration that means the same."""
        tables = {"e": ECR, "h": HUB, "o": OCI, "g": GAR}
        shown = effective(config := read({"targets": tables}))
        again = read(without_nulls(shown, {"session_name", "duration", "lifetime"}))
        assert effective(again) == shown
        assert list(again.targets) == list(config.targets)

    def test_the_schema_is_the_same_every_time(self) -> None:
        """A generated file in a repository does not change by itself."""
        assert json.dumps(schema()) == json.dumps(schema())

    def test_the_schema_speaks_of_the_file(self) -> None:
        """Durations are strings, references one of two tables, and every key is described."""
        defs = schema()["$defs"]
        assert defs["PolicySettings"]["properties"]["retry_cap"] == {
            "default": "5m",
            "description": "Longest retry delay.",
            "pattern": "^[1-9][0-9]{0,8}[smhd]$",
            "title": "Retry Cap",
            "type": "string",
        }
        assert defs["Aws"]["properties"]["duration"]["default"] == "1h"
        password = defs["DockerHubTarget"]["properties"]["password"]["oneOf"]
        assert [entry["required"] for entry in password] == [["env"], ["file"]]
        assert schema()["required"] == ["targets"]
        assert all(
            "description" in value or "const" in value
            for table in defs.values()
            for value in table["properties"].values()
        )


def without_nulls(value: Any, left_out: set[str]) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {k: v for k, v in value.items() if v is not None and k not in left_out}
    return {k: without_nulls(v, left_out) for k, v in kept.items()}


def uncommented(text: str) -> str:
    """The example with every key that is off switched on."""
    return re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)


def documented(text: str) -> Iterator[tuple[str, str]]:
    """(table, key) for each key and table that has a comment right above it."""
    table, before = "", ""
    for line in text.splitlines():
        bare = line.removeprefix("#")
        header = re.fullmatch(r"\[([a-z0-9.-]+)\]", bare)
        key = re.match(r"([a-z_]+) = ", bare)
        if header:
            table = re.sub(r"^(targets|fal\.accounts)\.[a-z-]+", r"\1.*", header[1])
        name = table.rpartition(".")[::2] if header else (table, key[1]) if key else None
        if name and before.startswith("# "):
            yield name
        before = line


class TestExample:
    TEXT = EXAMPLE.read_text()

    def environ(self) -> dict[str, str]:
        names = re.findall(r'env = "([A-Z_]+)"', self.TEXT)
        return {"HOME": "/home/u", **dict.fromkeys(names, "x")}

    def test_it_loads_as_it_is(self) -> None:
        """What is live is a working start with one ECR target, once FAL_KEY is set."""
        config = load(EXAMPLE, {"HOME": "/home/u", "FAL_KEY": "id:secret"})
        assert list(config.targets) == ["ecr"]

    def test_it_loads_with_every_key_on(self, tmp_path: Path) -> None:
        """No key in it is wrong or out of date, even where it is off."""
        (tmp_path / "ca.pem").write_text("x")
        config = parse(uncommented(self.TEXT), "all", self.environ(), base=tmp_path)
        assert {entry.source for entry in config.targets.values()} == set(TARGETS)

    def test_the_defaults_that_it_shows_are_the_defaults(self) -> None:
        """A key that has a default is shown with it."""
        shown = tomllib.loads(uncommented(self.TEXT))
        ecr = shown["targets"]["ecr"]
        pairs: list[tuple[type[BaseModel], dict[str, Any]]] = [
            (Daemon, shown["daemon"]),
            (Fal, shown["fal"]),
            (Account, shown["fal"]["accounts"]["staging"]),
            (PolicySettings, shown["policy"]),
            (Google, shown["google"]),
            (DockerHub, shown["dockerhub"]),
            (Aws, ecr["aws"]),
            (TARGETS["ecr"], ecr),
            (TARGETS["gar"], {**shown["targets"]["gar-by-token"], **shown["targets"]["gar"]}),
        ]
        differing = [
            (model.__name__, key)
            for model, table in pairs
            for key, value in defaults(model)
            if key in table and table[key] != value
        ]
        assert differing == []

    def test_every_key_is_named_with_a_comment(self) -> None:
        """The walk over the model finds each key in the file with a comment above it."""
        found = set(documented(self.TEXT))
        tables: dict[str, list[type[BaseModel]]] = {
            "daemon": [Daemon],
            "fal": [Account],
            "fal.accounts.*": [Account],
            "policy": [PolicySettings],
            "google": [Google],
            "dockerhub": [DockerHub],
            "targets.*": list(TARGETS.values()),
            "targets.*.aws": [Aws],
        }
        keys = {(t, key) for t, models in tables.items() for m in models for key in m.model_fields}
        assert keys - found == set()
        assert set(Root.model_fields) == {name.partition(".")[0] for name in tables}


def defaults(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The defaults of a table as TOML writes them, those that are something."""
    for key, value in schema()["$defs"][model.__name__]["properties"].items():
        default = value.get("default")
        if default not in (None, []) and not isinstance(default, dict):
            yield key, default


KEYS = st.sampled_from(
    sorted(
        {
            *Root.model_fields,
            *(k for m in (Daemon, Fal, PolicySettings, Google, Aws) for k in m.model_fields),
            *(key for kind in TARGETS.values() for key in kind.model_fields),
            *("env", "file", "t", "default", "", "a\nb"),
        }
    )
)
SCALARS = st.one_of(
    st.text(max_size=12),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.sampled_from([*TARGETS, "A", "90s", "15m", "default", "r.io", "token", "TOKEN", "[::1]:1"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5)
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=6)


class TestAnyInput:
    @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(st.dictionaries(KEYS, TABLES | VALUES, max_size=6))
    def test_any_tables(self, data: dict[str, Any]) -> None:
        """Whatever tables a file holds, the answer is a config or lines of problems."""
        self._judge(lambda: read(data))

    @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(st.sampled_from([ECR, HUB, OCI, GAR]), TABLES)
    def test_any_target(self, table: dict[str, Any], keys: dict[str, Any]) -> None:
        """A good target with any keys changed gives a config or lines of problems."""
        self._judge(lambda: read({"targets": {"t": {**table, **keys}, "u": table}}))

    @settings(deadline=None)
    @given(
        st.one_of(st.text(), st.binary(), st.from_regex(r"(\[?[a-z.]+\]?( = [\"\[{0-9a-z]+)?\n)+"))
    )
    def test_any_text(self, text: str | bytes) -> None:
        """Whatever a file holds, the answer is a config or lines of problems."""
        self._judge(lambda: parse(text, "c.toml", ENVIRON))

    def _judge(self, attempt: Callable[[], Config]) -> None:
        lines = _outcome(attempt)
        assert lines
        assert all(len(line.splitlines()) == 1 and line.isprintable() for line in lines)


def _outcome(attempt: Callable[[], Config]) -> tuple[str, ...]:
    """The problems, or the config itself as it shows itself."""
    try:
        return (json.dumps(effective(attempt())),)
    except ConfigError as error:
        return error.problems
