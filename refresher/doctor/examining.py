"""Which checks each kind of target has, and in which order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

from refresher.clock import Clock
from refresher.config import AnyTarget, Config
from refresher.discovery import Discovery
from refresher.doctor import credentials, local, peers, project, secrets
from refresher.doctor.checks import Check, Step, good, unknown, walk
from refresher.doctor.fixes import Topic, fix_for
from refresher.doctor.instruments import Case, Instruments, recall
from refresher.doctor.peers import Peer
from refresher.errors import ConfigError, Failure


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is special to the targets of one source."""

    peers: Callable[[Case], Iterable[Peer]]
    #: What its credential is.
    topic: Topic
    #: Who we are there; None where a credential is all that there is.
    identity: Callable[[Case, str], Check] | None = None


_AWS = _Kind(peers.aws, Topic.AWS, credentials.aws_identity)
_KINDS: Mapping[str, _Kind] = {
    "ecr": _AWS,
    "ecr-public": _AWS,
    "gar": _Kind(peers.google, Topic.GOOGLE),
    "dockerhub": _Kind(peers.docker_hub, Topic.STATIC),
    "oci": _Kind(peers.registry, Topic.STATIC),
}


class Doctor:
    """Looks at everything and changes nothing. Close it, or use it as a context manager."""

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        environ: Mapping[str, str] = os.environ,
        project: Discovery | None = None,
        retry_refused: bool = False,
    ) -> None:
        """`project`: the fal project that uses the secrets; `retry_refused`: also try a value
        again that the registry is known to have refused.

        Raises `Misconfigured` for a CA bundle or proxy that cannot be used.
        """
        self._config = config
        self._environ = environ
        self._project = project
        memory = recall(config, environ, clock)
        self._tools = Instruments(config, memory, clock=clock, retry_refused=retry_refused)

    def machine(self) -> Iterator[Check]:
        """What concerns no single target."""
        yield local.configuration(self._config)
        yield local.daemon_references(self._config, self._environ)
        files = local.daemon_files(self._config)
        if files is not None:
            yield files
        yield self._tools.memory.check
        if self._project is not None:
            kept = {target.secret for target in self._config.targets.values()}
            yield from project.whole(self._project, kept)

    def target(self, name: str) -> Iterator[Check]:
        """The checklist of one target, parked or not."""
        section = self._config.targets[name].model_copy(update={"enabled": True})
        try:
            case = self._case(name, section)
        except ConfigError as error:
            yield from local.unusable(error)
            yield unknown("all else", "not tried: config comes first")
            return
        yield good("config", f"{section.source}, {case.target.registry.host}")
        yield from walk(self._steps(case))

    def clock(self) -> Check:
        """What the peers told of the time; ask it last."""
        return local.clock(self._tools.skews.seconds())

    def _case(self, name: str, section: AnyTarget) -> Case:
        config = self._config.model_copy(update={"targets": {name: section}})
        return Case(section, self._tools.build(config)[name], self._tools)

    def close(self) -> None:
        self._tools.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the checklist -------------------------------------------------------------------------

    def _steps(self, case: Case) -> Iterator[Step]:
        yield _step(
            case, "references", partial(local.target_references, case, self._environ), Topic.STATIC
        )
        files = local.target_files(case)
        if files is not None:
            yield _step(case, "files", lambda _name: files, Topic.STATIC)
        yield from _credential_steps(case, _KINDS[case.target.kind])
        yield from _fal_steps(case)
        if self._project is not None:
            yield _step(case, "project", partial(project.use, case, self._project), Topic.FAL)


def _credential_steps(case: Case, kind: _Kind) -> Iterator[Step]:
    """What is issued needs its issuer at once; what is read, when it is proved."""
    there = [*kind.peers(case)]
    for peer in there:
        yield _step(case, peer.check, partial(peers.reach, case, peer), Topic.REACH)
    issuers = tuple(peer.check for peer in there if peer.issues)
    before: tuple[str, ...] = ("references",)
    if kind.identity is not None:
        needs = (*before, *(name for name in issuers if name != "reach issuer"))
        yield _step(case, "identity", partial(kind.identity, case), kind.topic, needs)
        before = (*before, "identity")
    if case.target.renewable:
        before = (*before, *issuers)
    yield _step(case, "credential", partial(credentials.credential, case), kind.topic, before)
    topic = Topic.RENEWABLE_LOGIN if case.target.renewable else Topic.STATIC_LOGIN
    needs = ("credential", *issuers, "reach registry")
    yield _step(case, "registry", partial(credentials.login, case), topic, needs)
    yield _step(case, "image", partial(credentials.image, case), topic, ("registry",))


def _fal_steps(case: Case) -> Iterator[Step]:
    peer = peers.fal(case)
    yield _step(case, peer.check, partial(peers.reach, case, peer), Topic.REACH)
    yield _step(case, "fal key", partial(secrets.key, case), Topic.FAL, (peer.check,))
    for ref in case.target.secrets:
        look = partial(secrets.secret, case, ref)
        yield _step(case, f"secret {ref.environment}", look, Topic.FAL, ("fal key",))
    yield _step(case, "drift", partial(secrets.drift, case), Topic.FAL)
    yield _step(case, "exposure", partial(secrets.exposure, case), Topic.FAL, ("fal key",))


def _step(
    case: Case,
    name: str,
    look: Callable[[str], Check],
    topic: Topic,
    needs: tuple[str, ...] = (),
) -> Step:
    def fix(failure: Failure) -> str:
        return fix_for(topic, failure.reason, case.words)

    return Step(name, look, fix, needs)
