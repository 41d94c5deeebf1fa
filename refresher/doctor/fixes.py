"""What to do, by what was tried and why it failed."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from refresher.errors import FailureReason as Why


class Topic(StrEnum):
    """What was tried."""

    REACH = "reach"
    AWS = "aws"
    GOOGLE = "google"
    #: A password that only a person can replace.
    STATIC = "static"
    #: A login with a credential that was just issued.
    RENEWABLE_LOGIN = "renewable login"
    STATIC_LOGIN = "static login"
    FAL = "fal"


_NETWORK = "check network, DNS, proxy and the peer's own status page, then try again"

_ANYWHERE: Mapping[Why, str] = {
    Why.UNAUTHORIZED: "replace the credential",
    Why.FORBIDDEN: "`refresher policy {target}` prints what must be allowed",
    Why.NOT_FOUND: "check the name, and that it exists",
    Why.THROTTLED: "wait, and find out what else uses this account so much",
    Why.UNAVAILABLE: _NETWORK,
    Why.TIMEOUT: _NETWORK,
    Why.TLS: "check the proxy; name an authority of your own in daemon.ca_bundle",
    Why.CLOCK_SKEW: "synchronise this machine's clock with NTP",
    Why.INVALID_RESPONSE: "check registry_url, endpoints and proxy: something else answered",
    Why.INVALID_CREDENTIAL: "put a whole and living credential into {reference}",
    Why.CONFIG: "correct targets.{target}; `refresher config schema` describes every key",
    Why.INTERRUPTED: "run it again",
}

_FIXES: Mapping[Topic, Mapping[Why, str]] = {
    Topic.REACH: {
        Why.UNAVAILABLE: "check the name in the configuration, DNS, and the firewall on the way",
        Why.TIMEOUT: "check DNS, and the firewall on the way: nothing answers",
        Why.TLS: "check the clock and the proxy; name an authority of your own in daemon.ca_bundle",
        Why.CONFIG: "correct daemon.ca_bundle",
    },
    Topic.AWS: {
        Why.UNAUTHORIZED: "replace the access key, or sign in again with `aws sso login`",
        Why.CONFIG: "give AWS credentials: AWS_PROFILE, an access key, a role of the machine, or"
        " `aws` of targets.{target}",
    },
    Topic.GOOGLE: {
        Why.UNAUTHORIZED: "make a new key with `gcloud iam service-accounts keys create`",
        Why.CONFIG: "set `key` of targets.{target}, or GOOGLE_APPLICATION_CREDENTIALS",
    },
    Topic.STATIC: {Why.CONFIG: "put the credential into {reference}"},
    Topic.RENEWABLE_LOGIN: {
        Why.UNAUTHORIZED: "check that the registry is one that this identity may read",
    },
    Topic.STATIC_LOGIN: {
        Why.UNAUTHORIZED: "make a new token there, and put it into {reference}",
        Why.FORBIDDEN: "allow this user to pull; `refresher policy {target}` names the scope",
        Why.THROTTLED: "wait, and stop whatever else logs in as this user",
    },
    Topic.FAL: {
        Why.UNAUTHORIZED: "make a new key with `fal keys create`, and put it into {key}",
        Why.CONFIG: "put `id:secret`, as `fal keys create` prints it, into {key}",
        Why.NOT_FOUND: "create it with `fal environments create`, or correct `environments`",
        Why.TLS: "check clock and proxy; an authority of your own goes into daemon.ca_bundle",
    },
}


def fix_for(topic: Topic, why: Why, words: Mapping[str, str]) -> str:
    """What to do; `words` are the names `target`, `reference` and `key`."""
    return (_FIXES[topic].get(why) or _ANYWHERE[why]).format_map(words)
