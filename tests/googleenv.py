"""An environment in which google-auth sees nothing of the machine that the tests run on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from refresher.clock import Clock, Skews
from refresher.sandbox.google import GoogleStandIn
from refresher.sources.gar import Google

EMAIL = "puller@sandbox.iam.gserviceaccount.com"
#: Seconds; a stand-in answers in a few milliseconds or never.
CALL_SECONDS = 1.0


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Drop every Google setting and every proxy; gcloud's folder is then `home`."""
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "GCE_", "CLOUDSDK_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(home))


def google_at(
    stand_in: GoogleStandIn,
    clock: Clock,
    skews: Skews | None = None,
    certs_url: str | None = None,
) -> Google:
    """Google as it is reached at a stand-in, with a short deadline."""
    return Google(
        clock=clock,
        skews=skews or Skews(),
        token_uris=(stand_in.token_uri,),
        certs_url=certs_url or stand_in.certs_url,
        iam_url=stand_in.iam_url,
        call_seconds=CALL_SECONDS,
    )


def written(path: Path, document: Mapping[str, object]) -> Path:
    """A JSON file, as Google's console writes one."""
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
