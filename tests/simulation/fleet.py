"""Fifty targets: fourteen that we renew and thirty-six that only a person can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from refresher.model import Policy, RegistryRef, SecretRef, Source, Target, Verifier
from tests.simulation.peers import Issuer, Registry, StaticFile, World
from tests.simulation.trace import Cast

PRINCIPALS = ("p0", "p1", "p2", "p3")
#: How many targets share each of them.
TARGETS_OF = {"p0": 4, "p1": 4, "p2": 4, "p3": 2}
SESSION_BOUND = ("p3",)
STATICS = {
    "hub-a": "hub",
    "hub-b": "hub",
    "q-a": "quay",
    "q-b": "quay",
    "g-a": "ghcr",
    "g-b": "ghcr",
}
TARGETS_PER_STATIC = 6
ACCOUNTS = ("one", "two")

#: When those end that have an end, all but one source's: after the year.
STATIC_LIFE = timedelta(days=400)

CAST = Cast(
    principals=PRINCIPALS,
    session_bound=SESSION_BOUND,
    registries=(*PRINCIPALS, "hub", "quay", "ghcr"),
    accounts=ACCOUNTS,
    statics=tuple(STATICS),
)

#: How often a credential is proved again while nothing happens that a proof could find.
QUIET = timedelta(hours=6)
QUIET_STATIC = timedelta(hours=48)


@dataclass(frozen=True, slots=True)
class Member:
    """One target of the fleet, as the simulation knows it."""

    name: str
    #: Principal or static source.
    origin: str
    renewable: bool
    registry: str
    account: str

    @property
    def ref(self) -> SecretRef:
        return SecretRef(self.account, "main", self.name.upper())

    @property
    def peers(self) -> tuple[str, ...]:
        """Those that an attempt at it needs."""
        ours = (f"registry/{self.registry}", f"fal/{self.account}")
        return ("aws", f"aws/{self.origin}", *ours) if self.renewable else ours


def members() -> list[Member]:
    """The whole fleet."""
    origins = [(name, name, True, n) for name in PRINCIPALS for n in range(TARGETS_OF[name])]
    origins += [
        (name, registry, False, n)
        for name, registry in STATICS.items()
        for n in range(TARGETS_PER_STATIC)
    ]
    return [
        Member(f"{origin}-{n}", origin, renewable, registry, ACCOUNTS[n % len(ACCOUNTS)])
        for origin, registry, renewable, n in origins
    ]


def targets(
    world: World, fleet: list[Member], policy: Policy, registry: Registry
) -> dict[str, Target]:
    """The fleet as refresher sees it."""
    return {member.name: _target(world, member, policy, registry) for member in fleet}


def _target(world: World, member: Member, policy: Policy, registry: Verifier) -> Target:
    hub = member.registry == "hub"
    expires_at = None if member.origin == "hub-a" else world.loop.clock.now() + STATIC_LIFE
    source: Source = (
        Issuer(world, member.name, member.origin)
        if member.renewable
        else StaticFile(world, member.origin, expires_at)
    )
    hours = timedelta(hours=6 if hub else 1)
    return Target(
        name=member.name,
        kind="ecr" if member.renewable else "dockerhub" if hub else "oci",
        registry=RegistryRef(member.registry, f"https://{member.registry}"),
        image=None,
        secrets=(member.ref,),
        source=source,
        verifier=registry,
        username=member.origin,
        policy=replace(policy, check_interval=hours),
        digest="v1",
    )


def quiet(target: Target) -> Target:
    """The target while nothing happens that a proof could find."""
    policy = replace(target.policy, reverify_interval=QUIET, check_interval=QUIET_STATIC)
    return replace(target, policy=policy)
