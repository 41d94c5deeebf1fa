"""The status page: plain HTML, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from html import escape
from importlib import resources
from string import Template

from refresher.view import TargetView, timestamp

_STATE_DOWN = '<p class="bad">The state cannot be written: a restart would forget what is new.</p>'
_NO_TARGETS = "<p>No targets are configured.</p>"


def page(targets: Sequence[TargetView], now: datetime, *, state_up: bool) -> str:
    """The page as HTML. Whatever comes from outside is escaped."""
    notices = ([] if state_up else [_STATE_DOWN]) + ([] if targets else [_NO_TARGETS])
    return Template(_asset("page.html")).substitute(
        now=timestamp(now),
        notices="\n".join(notices),
        rows="\n".join(_row(target) for target in targets),
    )


def style() -> str:
    """The page's style sheet."""
    return _asset("style.css")


@cache
def _asset(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")


def _row(target: TargetView) -> str:
    cells = (
        target["name"],
        target["source"],
        target["registry"],
        _state(target),
        _VALID[target["valid"]],
        target["expires_at"] or "–",
        target["next_attempt_at"] or "–",
        target["last_success_at"] or "–",
        str(target["consecutive_failures"]),
        _trouble(target),
    )
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


_VALID = {True: "yes", False: "NO", None: "unknown"}


def _state(target: TargetView) -> str:
    if not target["enabled"]:
        return f"{target['state']}, disabled"
    return f"{target['state']}, paused" if target["paused"] else target["state"]


def _trouble(target: TargetView) -> str:
    failure = target["last_failure"]
    if failure is None:
        return ""
    return f"{failure['at']} {failure['stage']}/{failure['reason']}: {failure['message']}"
