"""fal's key, the secrets that it writes, and who else writes them."""

from __future__ import annotations

from collections.abc import Iterator

from refresher import listing, policy
from refresher.doctor.checks import Check, bad, good, unknown
from refresher.doctor.instruments import Case
from refresher.errors import Failure, Forbidden, NotFound
from refresher.model import Life, ListedSecret, SecretRef, SecretStatus
from refresher.view import timestamp

_MAY_NOT_LIST = "the key may not list secrets, which writing does not need"
_TO_LIST = "for more, let it read: `fal keys create --permission serverless:secrets:read`"


def key(case: Case, name: str) -> Check:
    """Whether fal accepts the key. Whether it may write only a write would tell.

    Raises a `Failure`.
    """
    accepted = f"{case.account.host} accepts {case.account.key}; {_last_write(case)}"
    for ref in case.target.secrets:
        try:
            case.tools.listed(ref.account, ref.environment)
        except Forbidden:
            return good(name, f"{accepted}; {_MAY_NOT_LIST}")
        except NotFound:
            continue  # the key is good, and its environment has a check of its own
        break
    return good(name, accepted)


def _last_write(case: Case) -> str:
    status = case.status
    times = [secret.published_at for secret in status.secrets] if status else []
    last = max((at for at in times if at is not None), default=None)
    if last is None:
        return "whether it may write, the first write shows"
    return f"it wrote last at {timestamp(last)}"


def secret(case: Case, ref: SecretRef, name: str) -> Check:
    """What stands in one environment. Raises a `Failure`."""
    known = _known(case, ref)
    try:
        found = case.tools.listed(ref.account, ref.environment).get(ref.name)
    except Forbidden:
        return unknown(name, _MAY_NOT_LIST, _TO_LIST)
    if known.fingerprint is None or known.published_at is None:
        return _first(name, ref, found)
    if found is None:
        return bad(
            name,
            f"{ref.name} was deleted after we wrote it at {timestamp(known.published_at)}",
            f"a daemon writes it within 15 min; without one, `refresher once {case.target.name}`",
        )
    return _ours(case, known, name)


def _first(name: str, ref: SecretRef, found: ListedSecret | None) -> Check:
    if found is None:
        return unknown(name, f"{ref.name} is not there yet; the first refresh makes it")
    return good(
        name, f"{ref.name} is there{_since(found)}, not by us: the first refresh overwrites it"
    )


def _since(found: ListedSecret) -> str:
    return "" if found.created_time is None else f" since {timestamp(found.created_time)}"


def _ours(case: Case, known: SecretStatus, name: str) -> Check:
    """What the state remembers of what we wrote."""
    target, status, now = case.target, case.status, case.tools.clock.now()
    assert status is not None  # noqa: S101 - it knows the secret
    assert known.published_at is not None  # noqa: S101 - the caller has looked
    ends = policy.ends_at(known, status.learnt_life)
    until = "no end known" if ends is None else f"good until {timestamp(ends)}"
    words = f"{known.ref.name} is there, written by us at {timestamp(known.published_at)}"
    again = f"start `refresher run`, or `refresher once {target.name}` now"
    if policy.secret_life(target, known, status, now) is Life.EXPIRED:
        return bad(name, f"{words}; that ended at {timestamp(ends or now)}", again)
    if policy.secret_valid(target, known, now) is False:
        return bad(name, f"{words}; the registry refused it since", again)
    return good(name, f"{words}, {until}")


def _known(case: Case, ref: SecretRef) -> SecretStatus:
    return SecretStatus(ref=ref) if case.status is None else case.status.secret(ref)


# --- who else ----------------------------------------------------------------------------------


def drift(case: Case, name: str) -> Check:
    """Who else writes or deletes the target's secrets, as far as fal's lists tell."""
    status = case.status
    if status is None or all(secret.fingerprint is None for secret in status.secrets):
        return unknown(name, "nothing of ours stands there yet")
    statuses = case.tools.memory.statuses.values()
    moving = listing.moving(statuses)
    look = listing.Look(case.tools.clock.now(), _listing(case), moving)
    drifted = [s for s in listing.noted(status, look).secrets if s.drifted]
    if drifted:
        return bad(
            name,
            "; ".join(map(_drifted, drifted)),
            "find and stop the other writer: a CI job, a cron job, `fal secrets set`, a second"
            f" refresher; then `refresher refresh {case.target.name}`",
        )
    if case.section.account in moving:
        return good(name, "nobody else wrote or deleted it since we did")
    if any(secret.created_time_moves is False for secret in status.secrets):
        return unknown(name, "fal's created_time does not move, so only a deletion would show")
    return unknown(name, "fal shows a write by another only once two of ours have taught us so")


def _drifted(secret: SecretStatus) -> str:
    if secret.vanished:
        return f"someone else deleted {secret.ref}"
    at = "" if secret.created_time is None else f" at {timestamp(secret.created_time)}"
    return f"someone else wrote {secret.ref}{at}"


def _listing(case: Case) -> listing.Listing:
    return dict(_lists(case))


def _lists(case: Case) -> Iterator[tuple[tuple[str, str], dict[str, ListedSecret]]]:
    """What fal lists of the target's environments; nothing of those that it does not."""
    for ref in case.target.secrets:
        try:
            found = case.tools.listed(ref.account, ref.environment)
        except Failure:
            continue
        yield (ref.account, ref.environment), dict(found)


def exposure(case: Case, name: str) -> Check:
    """Who sees the secret besides the registry login."""
    chosen = case.target.default_exposed
    if chosen is not None:
        return good(name, f"each write sets default_exposed to {str(chosen).lower()}")
    shown = [ref.environment for ref in case.target.secrets if _is_exposed(case, ref)]
    if not shown:
        return good(name, "default_exposed is left as fal holds it")
    return unknown(
        name,
        f"fal shows it to every app of {', '.join(shown)} as a variable; we leave that as it is",
        f"default_exposed = false in targets.{case.target.name}, if no app reads it itself",
    )


def _is_exposed(case: Case, ref: SecretRef) -> bool:
    listed = _listing(case).get((ref.account, ref.environment), {})
    return ref.name in listed and listed[ref.name].default_exposed is True
