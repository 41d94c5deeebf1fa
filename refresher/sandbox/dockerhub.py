"""Docker Hub on loopback: its token service, its registry, its pull limit and its lock-out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from refresher.clock import Clock, SystemClock
from refresher.sandbox.http import Request, Response
from refresher.sandbox.registry import BearerRegistryStandIn

HOST = "registry-1.docker.io"
#: Seconds over which pulls are counted (docs.docker.com/docker-hub/usage/pulls).
PULL_WINDOW_SECONDS = 6 * 3600
#: How long a lock-out lasts, as Docker's staff say (docker/hub-feedback #2217).
LOCKOUT = timedelta(minutes=15)


class Login(StrEnum):
    """What a user name and a secret that belong together are good for."""

    GOOD = "good"
    #: An access token of a user after its last day.
    EXPIRED = "expired"
    #: An access token of an organization after its last day.
    ORG_EXPIRED = "org expired"
    #: Deactivated by its owner, and answered like one that never was.
    DISABLED = "disabled"
    #: A password, of an account that must use single sign-on.
    SSO_REQUIRED = "sso required"


def _refused(details: str) -> Response:
    return Response.json({"details": details}, 401)


#: docker/hub-feedback #2120, sailor-sh/CK-X #60, linuxarena/control-tower #1007 and
#: kubectl-rolesum #49.
_WRONG = _refused("incorrect username or password")
_REFUSALS: Mapping[Login, Response | None] = {
    Login.GOOD: None,
    Login.EXPIRED: _refused("personal access token is expired"),
    Login.ORG_EXPIRED: _refused("org access token is expired"),
    Login.DISABLED: _WRONG,
    Login.SSO_REQUIRED: _refused(
        "your account must log in with a Personal Access Token (PAT) - learn more at"
        " docs.docker.com/go/access-tokens"
    ),
}
_LOCKED_OUT = Response.json(
    {"details": "too many failed login attempts for username or IP address"}, 429
)
_OVER_LIMIT = Response.json(
    {
        "errors": [
            {
                "code": "TOOMANYREQUESTS",
                "message": "You have reached your pull rate limit. You may increase the limit by"
                " upgrading: https://www.docker.com/increase-rate-limit",
            }
        ]
    },
    429,
)


@dataclass(slots=True)
class _Tries:
    """Failed logins of one user."""

    failed: int = 0
    locked_until: datetime | None = None


class DockerHubStandIn(BearerRegistryStandIn):
    """`registry-1.docker.io` and `auth.docker.io` on one port.

    `logins` may be changed at any time. After `lockout_after` failed logins of a user each of the
    user's logins is answered 429 until the lock-out ends.
    """

    def __init__(
        self,
        logins: Mapping[tuple[str, str], Login],
        images: Mapping[str, Iterable[str]] | None = None,
        *,
        clock: Clock | None = None,
        pull_limit: int | None = 200,
        lockout_after: int = 5,
        tells_when: bool = False,
        port: int = 0,
    ) -> None:
        """`logins`: user name and secret; `pull_limit`: None for a plan without one;
        `tells_when`: whether a lock-out comes with `X-Retry-After`."""
        super().__init__(HOST, {}, images, "hub-like", port)
        self.logins = dict(logins)
        self.pull_limit = pull_limit
        #: Manifests that were fetched with GET; 0 again in a new window.
        self.pulls = 0
        self._clock = clock or SystemClock()
        self._lockout_after = lockout_after
        self._tells_when = tells_when
        self._tries: dict[str, _Tries] = {}
        self._counting = threading.Lock()

    @property
    def auth_url(self) -> str:
        """What `dockerhub.auth_url` is set to."""
        return self.realm

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        if "/manifests/" not in request.path or answer.status != 200:
            return answer
        return self._counted(request, answer)

    def refused_login(self, username: str, password: str) -> Response | None:
        now = self._clock.now()
        with self._counting:
            tries = self._tries.setdefault(username.lower(), _Tries())
            if tries.locked_until is not None and now < tries.locked_until:
                return self._locked_out(tries.locked_until)
            login = self.logins.get((username, password))
            refused = _WRONG if login is None else _REFUSALS[login]
            failed = 0 if refused is None else tries.failed + 1
            locked = failed >= self._lockout_after
            self._tries[username.lower()] = _Tries(
                0 if locked else failed, now + LOCKOUT if locked else None
            )
        return refused

    def _locked_out(self, until: datetime) -> Response:
        if not self._tells_when:
            return _LOCKED_OUT
        told = {"X-Retry-After": str(int(until.timestamp()))}
        return replace(_LOCKED_OUT, headers={**_LOCKED_OUT.headers, **told})

    def _counted(self, request: Request, answer: Response) -> Response:
        """The answer with what is left of the pull limit; only a GET takes from it."""
        if self.pull_limit is None:
            return answer
        with self._counting:
            over = self.pulls >= self.pull_limit
            if request.method == "GET" and not over:
                self.pulls += 1
            left = self.pull_limit - self.pulls
        answer = _OVER_LIMIT if over else answer
        window = f";w={PULL_WINDOW_SECONDS}"
        told = {
            "ratelimit-limit": f"{self.pull_limit}{window}",
            "ratelimit-remaining": f"{left}{window}",
            "docker-ratelimit-source": "127.0.0.1",
        }
        return replace(answer, headers={**answer.headers, **told})
