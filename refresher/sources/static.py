"""A username and a password that only a person can replace: Docker Hub and any OCI registry."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from refresher.errors import InvalidCredential, Misconfigured
from refresher.model import Credential, SecretValue
from refresher.references import Reference


class StaticSource:
    """Reads the password anew each time; nobody issues another."""

    renewable = False
    quota: str | None = None

    def __init__(
        self, username: str, password: Reference, *, expires_on: date | None = None
    ) -> None:
        """`expires_on`: the day on which the password ends, as its issuer shows it.

        A registry does not say at which hour that is, so the life ends with the first second of
        the day, in UTC: early is safe, late is an outage.
        """
        self._username = username
        self._password = password
        self._expires_at = (
            None if expires_on is None else datetime.combine(expires_on, time(), tzinfo=UTC)
        )
        self.share_key = f"static {username} {password}"

    def obtain(self, now: datetime) -> Credential:
        """The password as it stands now, with surrounding white space off.

        Raises `Misconfigured` where it cannot be read, `InvalidCredential` where it is empty, has
        more than one line or is past its day.
        """
        if not self._username or ":" in self._username:
            raise Misconfigured(
                "the user name is empty or holds a colon, which HTTP Basic cannot carry"
            )
        value = self._password.read()
        self._check(value)
        if self._expires_at is not None and self._expires_at <= now:
            raise InvalidCredential(
                f"the password of {self._username} ends on {self._expires_at:%Y-%m-%d}, as"
                " expires_on says, and that day has come; put a new one in"
                f" {self._password} and set its expires_on"
            )
        return Credential(self._username, value, issued_at=now, expires_at=self._expires_at)

    def _check(self, value: SecretValue) -> None:
        text = value.reveal()
        if not text:
            raise InvalidCredential(f"{self._password} is empty; put the password in it")
        if any(character in text for character in "\r\n\0"):
            raise InvalidCredential(
                f"{self._password} holds more than one line, which no password does;"
                " leave only the password in it"
            )
