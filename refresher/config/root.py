"""The whole file as one model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PrivateAttr, model_validator

from refresher.config import kinds, values
from refresher.config.sections import (
    Account,
    Daemon,
    DockerHub,
    Fal,
    Google,
    PolicySettings,
    Section,
)
from refresher.config.targets import AnyTarget


class Config(Section):
    """The whole file."""

    model_config = ConfigDict(json_schema_extra={"required": ["targets"]})

    daemon: Daemon
    """The process."""
    fal: Fal
    """The fal account called `default`, and the others."""
    policy: PolicySettings = PolicySettings()
    """Numbers for every target."""
    google: Google = Google()
    """Where Google is."""
    dockerhub: DockerHub = DockerHub()
    """Where Docker Hub is."""
    targets: dict[kinds.Name, Annotated[AnyTarget, Field(discriminator="source")]] = Field(
        default={}
    )
    """The credentials to keep, by name."""

    _origin: str = PrivateAttr("config")

    @model_validator(mode="before")
    @classmethod
    def _with_environment(cls, data: Any) -> Any:
        """Tables whose defaults come from the environment are read even where they are absent."""
        return {"daemon": {}, "fal": {}, **data} if isinstance(data, dict) else data

    def model_post_init(self, context: object) -> None:
        if isinstance(context, values.Context):
            self._origin = context.origin

    @property
    def origin(self) -> str:
        """The name of the file, as problems show it."""
        return self._origin

    @property
    def accounts(self) -> dict[str, Account]:
        """Every fal account by its name."""
        return {"default": self.fal, **self.fal.accounts}

    def problem(self, path: str, text: str) -> str:
        """A line of a `ConfigError` about the key at a dotted path."""
        return f"{self._origin}: {path}: {text}"
