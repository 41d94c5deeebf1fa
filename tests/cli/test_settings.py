"""Flags beat environment beats file."""

from __future__ import annotations

from pathlib import Path

import pytest

from refresher.cli.settings import Settings, require_known
from refresher.errors import ConfigError
from refresher.model import SecretValue

TARGET = """
[targets.ecr]
source = "ecr"
registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
secret = "AWS_ECR_PASSWORD"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, daemon: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    state = 'state = "sqlite://"'
    path.write_text(f"[daemon]\n{state}\n{daemon}\n{TARGET}")
    return path


def test_the_file_is_looked_for_in_three_places(folder: Path) -> None:
    """The first that is there is taken."""
    write(folder / "refresher.toml")
    assert Settings(environ={}).path == Path("refresher.toml")
    write(folder / "config" / "refresher.toml")
    assert Settings(environ={}).path == Path("config/refresher.toml")


def test_a_named_file_goes_before_a_found_one(folder: Path) -> None:
    """The flag goes before the variable, even where neither file is there."""
    write(folder / "refresher.toml")
    environ = {"REFRESHER_CONFIG": "of-environment.toml"}
    assert Settings(environ=environ).path == Path("of-environment.toml")
    assert Settings(config=Path("of-flag.toml"), environ=environ).path == Path("of-flag.toml")


@pytest.mark.skipif(Path("/etc/refresher/refresher.toml").exists(), reason="it is installed here")
def test_no_file_at_all_says_where_it_was_looked_for() -> None:
    """And how to name one."""
    with pytest.raises(ConfigError, match=r"looked for config/refresher.toml, .* --config"):
        _ = Settings(environ={}).path


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]:1234", "http://[::1]:1234"),
        ("localhost:80", "http://localhost:80"),
    ],
)
def test_the_daemon_is_where_it_listens(folder: Path, listen: str, url: str) -> None:
    """Every interface is reached over loopback."""
    path = write(folder / "a.toml", f'listen = "{listen}"')
    with Settings(config=path, environ={}).client() as client:
        assert client.url == url


def test_a_named_url_goes_before_the_file(folder: Path) -> None:
    """The flag goes before the variable, and no file is needed."""
    environ = {"REFRESHER_URL": "http://localhost:1/"}
    with Settings(environ=environ).client() as client:
        assert client.url == "http://localhost:1"
    with Settings(url="http://localhost:2", environ=environ).client() as client:
        assert client.url == "http://localhost:2"


@pytest.mark.parametrize("url", ["localhost:9478", "ftp://localhost", "http://", "http://a:b"])
def test_what_is_no_url_is_refused(url: str) -> None:
    """A host and port alone are a common slip."""
    with pytest.raises(ConfigError, match="--url: expected a URL such as http://127"):
        Settings(url=url, environ={}).client()


def test_port_0_leads_nowhere(folder: Path) -> None:
    """Only the daemon itself knows which port it got."""
    path = write(folder / "a.toml", 'listen = "127.0.0.1:0"')
    with pytest.raises(ConfigError, match=r"daemon.listen: port 0 .* --url"):
        Settings(config=path, environ={}).client()


def test_the_token_of_the_environment_goes_before_the_file(folder: Path) -> None:
    """The file's reference is followed only where the variable is not set."""
    path = write(folder / "a.toml", 'api_token = { env = "OWN_TOKEN" }')
    environ = {"REFRESHER_API_TOKEN": "of-environment\n", "OWN_TOKEN": "of-file"}
    settings = Settings(config=path, environ=environ)
    assert settings.api_token() == SecretValue("of-environment")
    del environ["REFRESHER_API_TOKEN"]
    assert settings.api_token() == SecretValue("of-file")
    del environ["OWN_TOKEN"]
    with pytest.raises(ConfigError, match=r"daemon.api_token: environment variable OWN_TOKEN is"):
        settings.api_token()


def test_without_a_file_there_is_no_token() -> None:
    """A daemon that is named by its URL alone may need none."""
    assert Settings(url="http://localhost:1", environ={}).api_token() is None


def test_an_unknown_target_is_told_the_nearest() -> None:
    """Each of them, a line each."""
    with pytest.raises(ConfigError) as refused:
        require_known(["ecr", "erc", "zzz"], ["ecr", "gar"])
    assert refused.value.problems == (
        'no target is named "erc"; did you mean ecr?',
        'no target is named "zzz"; known: ecr, gar',
    )
