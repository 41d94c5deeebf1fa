"""`check`: a gate for a deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import note, relative, say, say_json, say_table, span
from refresher.cli.settings import Settings
from refresher.errors import DaemonError, DaemonRefused

if TYPE_CHECKING:
    from refresher.view import TargetView


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a target's credential is good for as long as was asked."""

    name: str
    verdict: Literal["good", "bad", "unknown"]
    #: In words.
    why: str


@click.command(epilog="Example: refresher check --within 2h && fal deploy")
@click.option(
    "--within",
    type=options.Duration(),
    metavar="TIME",
    help="How long every credential must be good for; without it, now.",
)
@options.output
@options.daemon
@options.settings
def check(settings: Settings, within: timedelta | None, as_json: bool) -> Exit:
    """Tell whether every credential is good, as a gate for a deploy.

    Ends with 1 if any is bad, else with 3 if any is unknown. Without a daemon it reads the state.
    """
    ahead = within or timedelta()
    now = datetime.now(UTC)
    targets = [target for target in _targets(settings, now) if target["enabled"]]
    judgements = [judge(target, now, ahead) for target in targets]
    if as_json:
        verdicts = [asdict(judgement) for judgement in judgements]
        say_json({"within": int(ahead.total_seconds()), "targets": verdicts})
    else:
        _say(judgements)
    return exit_for(judgements)


def _say(judgements: Sequence[Judgement]) -> None:
    if not judgements:
        say("no target is enabled")
        return
    say_table(("TARGET", "VERDICT", "WHY"), [(j.name, j.verdict, j.why) for j in judgements])


def exit_for(judgements: Sequence[Judgement]) -> Exit:
    """Any bad before any unknown before good."""
    verdicts = {judgement.verdict for judgement in judgements}
    if "bad" in verdicts:
        return Exit.FAILED
    return Exit.UNKNOWN if "unknown" in verdicts else Exit.GOOD


def judge(target: TargetView, now: datetime, within: timedelta) -> Judgement:
    """Whether a target is good until `within` from `now`; no known expiry and valid is good."""
    name, told = target["name"], target["expires_at"]
    ends = None if told is None else datetime.fromisoformat(told)
    if ends is not None and ends <= now:
        return Judgement(name, "bad", f"expired {relative(told, now)}")
    if target["valid"] is False:
        return Judgement(name, "bad", _refusal(target))
    if ends is not None and ends <= now + within:
        return Judgement(name, "bad", f"expires {relative(told, now)}, sooner than {span(within)}")
    if target["valid"] is None:
        return Judgement(name, "unknown", _ignorance(target, now))
    ends_in = "" if told is None else f", expires {relative(told, now)}"
    return Judgement(name, "good", f"verified {relative(target['verified_at'], now)}{ends_in}")


def _refusal(target: TargetView) -> str:
    failure = target["last_failure"]
    return "refused by the registry" + ("" if failure is None else f": {failure['message']}")


def _ignorance(target: TargetView, now: datetime) -> str:
    if target["issued_at"] is None:
        return "never published"
    if target["verified_at"] is None:
        return "never verified"
    return f"last verified {relative(target['verified_at'], now)}"


# --- where it is known from --------------------------------------------------------------------


def _targets(settings: Settings, now: datetime) -> Sequence[TargetView]:
    """From the daemon; where none answers at the configured address, from the state."""
    try:
        with settings.client() as client:
            return client.targets()
    except DaemonRefused:
        raise
    except DaemonError as error:
        if settings.named_url is not None:
            raise
        note(f"note: {error.message}; reading the state instead")
    from refresher.cli.remembered import targets

    return targets(settings, now)
