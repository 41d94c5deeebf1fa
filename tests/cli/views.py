"""Targets and attempts as the API shows them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from refresher.view import AttemptView, TargetView, timestamp
from tests.conftest import NOON

HOUR = timedelta(hours=1)


def ago(by: timedelta) -> str:
    """A time before noon."""
    return timestamp(NOON - by)


def ahead(by: timedelta) -> str:
    """A time after noon."""
    return timestamp(NOON + by)


def at(text: str) -> datetime:
    """A time of the API."""
    return datetime.fromisoformat(text)


def target(name: str = "ecr", **changes: Any) -> TargetView:
    """A target that was refreshed an hour before noon and lives twelve; `issued_at` is that of
    each of its secrets."""
    issued_at = changes.pop("issued_at", ago(HOUR))
    issues = issued_at if isinstance(issued_at, list) else [issued_at]
    view = {
        "name": name,
        "source": "ecr",
        "renewable": True,
        "registry": "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "enabled": True,
        "paused": False,
        "state": "fresh",
        "valid": True,
        "proved": True,
        "image_pullable": None,
        "issued_at": issues[0],
        "expires_at": ahead(11 * HOUR),
        "refresh_at": ahead(3 * HOUR),
        "verified_at": ago(timedelta(minutes=2)),
        "next_attempt_at": ahead(timedelta(minutes=13)),
        "last_success_at": ago(HOUR),
        "last_attempt_at": ago(timedelta(minutes=2)),
        "consecutive_failures": 0,
        "last_failure": None,
        "source_value": None,
        "expiry_warning_days": None,
        "pulls_remaining": None,
        "pulls_limit": None,
        "holder": None,
        "layers": [],
        "secrets": [_secret(index, issue) for index, issue in enumerate(issues)],
    }
    return cast("TargetView", {**view, **changes})


def _secret(index: int, issued_at: str | None) -> dict[str, Any]:
    return {
        "account": "default",
        "environment": f"env{index}",
        "name": "AWS_ECR_PASSWORD",
        "published_at": issued_at,
        "issued_at": issued_at,
        "expires_at": ahead(11 * HOUR),
        "fingerprint": "0123456789abcdef",
        "valid": True,
        "drifted": False,
        "last_failure": None,
    }


def failure(message: str = "the registry refused the login") -> dict[str, Any]:
    """A refusal at noon."""
    return {"at": ago(HOUR), "stage": "verify", "reason": "unauthorized", "message": message}


def attempt(**changes: Any) -> AttemptView:
    """An attempt that refreshed."""
    view = {
        "id": "0" * 32,
        "target": "ecr",
        "actor": "schedule",
        "reason": "stale",
        "started_at": ago(timedelta(minutes=2)),
        "ended_at": ago(timedelta(minutes=2)),
        "outcome": "refreshed",
        "failure": None,
        "stages": [{"stage": "source", "seconds": 0.25}, {"stage": "verify", "seconds": 0.5}],
        "fingerprint_before": None,
        "fingerprint_after": "0123456789abcdef",
        "verified": True,
    }
    return cast("AttemptView", {**view, **changes})
