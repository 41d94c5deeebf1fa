"""The configuration of a daemon that may have a fal project for its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from refresher import logs
from refresher.cli.settings import SEARCHED, Settings
from refresher.errors import ConfigError

if TYPE_CHECKING:
    from refresher.config import Config
    from refresher.discovery import Composed


class Reader:
    """Reads the configuration anew at every call, and logs what came from where.

    The first one says how to log.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._unread: frozenset[str] | None = None
        self._read: tuple[Path, ...] = ()
        self._logging = False

    def __call__(self) -> Config:
        """Raises `ConfigError`, also where a file of the project cannot be read any more."""
        project = self._settings.project
        if project is None:
            config = self._settings.load("environment")
            self._log_as(config)
            return config
        composed = self._settings.compose(project, "environment")
        self._log_as(composed.config)
        self._read = composed.discovery.read
        self._refuse_worse(composed)
        self._tell(composed)
        return composed.config

    def watched(self) -> Iterator[Path]:
        """The files whose change, coming or going changes the configuration: its own, those of
        the project, and what those name."""
        from refresher.discovery import sources

        named, project = self._settings.named_path, self._settings.project
        yield from SEARCHED if named is None else (named,)
        if project is not None:
            yield from sources(project)
            yield from self._read

    def _log_as(self, config: Config) -> None:
        if not self._logging:
            logs.configure(config.daemon.log_format, debug=self._settings.debug)
        self._logging = True

    def _refuse_worse(self, composed: Composed) -> None:
        """A file that is broken while it is edited must not take targets away."""
        problems = composed.discovery.problems
        if self._unread is not None:
            worse = [str(each) for each in problems if each.file not in self._unread]
            if worse:
                raise ConfigError(*worse)
        self._unread = frozenset(each.file for each in problems)

    def _tell(self, composed: Composed) -> None:
        file = self._settings.file
        logs.event(
            "config.composed",
            file=None if file is None else str(file),
            from_file=list(composed.from_file),
            project=str(self._settings.project),
            from_project=dict(composed.from_project),
        )
        for problem in composed.discovery.problems:
            logs.warning("discovery.unread", message=str(problem))
        for finding in composed.discovery.unkept:
            message = f"{finding.app} ({finding.place}): {finding.advice}"
            logs.warning("discovery.not_kept", registry=finding.registry, message=message)
