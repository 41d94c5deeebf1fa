"""What flags, environment and file say together: flags beat environment beats file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from refresher.errors import ConfigError, Misconfigured
from refresher.model import SecretValue

if TYPE_CHECKING:
    from refresher.client import Client
    from refresher.config import Config, Follow
    from refresher.discovery import Composed
    from refresher.references import Reference

#: Where the configuration is looked for unless it is named.
SEARCHED = (
    Path("config/refresher.toml"),
    Path("refresher.toml"),
    Path("/etc/refresher/refresher.toml"),
)

#: Where a daemon that listens on every interface is reached on this machine.
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


class NoConfiguration(ConfigError):
    """None is named, and none is found."""

    def __init__(self) -> None:
        self.cause = f"no configuration found: looked for {', '.join(map(str, SEARCHED))}"
        self.fix = (
            "make one with `refresher discover . --write config/refresher.toml`,"
            " or name one with --config or REFRESHER_CONFIG"
        )
        super().__init__(f"{self.cause}; {self.fix}")


@dataclass
class Settings:
    """The options that most commands share, filled in while the command line is read."""

    #: --config
    config: Path | None = None
    #: --fal-project
    fal_project: Path | None = None
    #: --url
    url: str | None = None
    #: --verbose
    verbose: bool = False
    #: --debug
    debug: bool = False
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def named_path(self) -> Path | None:
        """The configuration's file as a person named it."""
        named = self.environ.get("REFRESHER_CONFIG")
        return self.config or (Path(named) if named else None)

    @property
    def path(self) -> Path:
        """The configuration's file. Raises `ConfigError` where none is named and none is found."""
        found = self.named_path or _found()
        if found is None:
            raise NoConfiguration
        return found

    @property
    def project(self) -> Path | None:
        """The fal project as a person named it."""
        named = self.environ.get("REFRESHER_FAL_PROJECT")
        return self.fal_project or (Path(named) if named else None)

    @property
    def file(self) -> Path | None:
        """The configuration's file; None where there is a fal project and no file refines it.

        Raises `ConfigError` where there is neither.
        """
        return self.path if self.project is None else self.named_path or _found()

    def load(self, follow: Follow) -> Config:
        """The configuration. Raises `ConfigError`."""
        from refresher.config import load

        if self.project is not None:
            return self.compose(self.project, follow).config
        return load(self.path, self.environ, follow=follow)

    def compose(self, project: Path, follow: Follow) -> Composed:
        """The configuration out of a fal project, and of the file if any. Raises `ConfigError`."""
        from refresher.discovery import compose

        return compose(project, self.file, self.environ, follow=follow)

    @property
    def named_url(self) -> str | None:
        """Where the daemon is, as a person said it. Raises `ConfigError` where that is no URL."""
        url = self.url or self.environ.get("REFRESHER_URL")
        if not url:
            return None
        if not _is_http(url):
            origin = "--url" if self.url else "REFRESHER_URL"
            raise ConfigError(f"{origin}: expected a URL such as http://127.0.0.1:9478")
        return url

    def client(self) -> Client:
        """A client of the daemon. Raises `ConfigError` where its address cannot be known."""
        from refresher.client import Client

        return Client(self.named_url or self._configured_url(), self.api_token)

    def read(self, config: Config, key: str, reference: Reference) -> SecretValue:
        """The value behind a reference of the configuration. Raises `ConfigError`."""
        try:
            return reference.read(self.environ)
        except Misconfigured as error:
            raise ConfigError(config.problem(key, error.message)) from error

    def _configured_url(self) -> str:
        config = self.load("nothing")
        host, port = config.daemon.address
        if port == 0:
            raise ConfigError(
                config.problem("daemon.listen", "port 0 is a new one each time; give --url")
            )
        host = _REACHED_AT.get(host, host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def api_token(self) -> SecretValue | None:
        """What a request that changes something must show; None where none is configured.

        Raises `ConfigError`.
        """
        given = self.environ.get("REFRESHER_API_TOKEN")
        if given:
            return SecretValue(given.strip())
        if self.named_path is None and _found() is None:
            return None
        config = self.load("nothing")
        reference = config.daemon.api_token
        return None if reference is None else self.read(config, "daemon.api_token", reference)


@contextmanager
def misconfiguration() -> Iterator[None]:
    """While the parts are put together, what cannot be used is a problem of the configuration."""
    try:
        yield
    except Misconfigured as error:
        raise ConfigError(error.message) from error


def _found() -> Path | None:
    return next((candidate for candidate in SEARCHED if candidate.exists()), None)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def require_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ConfigError` with the nearest name for each name that is no target."""
    targets = list(known)
    problems = [_unknown(name, targets) for name in names if name not in targets]
    if problems:
        raise ConfigError(*problems)


def _unknown(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    return f'no target is named "{name}"; {hint}'
