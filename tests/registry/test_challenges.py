"""How a registry wants to be logged in to."""

from __future__ import annotations

import pytest

from refresher.registry.challenges import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        ([], []),
        (["Basic"], [Challenge("basic")]),
        (
            ['Basic realm="https://host/",service="ecr.amazonaws.com"'],
            [Challenge("basic", {"realm": "https://host/", "service": "ecr.amazonaws.com"})],
        ),
        (
            ['BEARER Realm = "https://h/t", scope="repository:a/b:pull,push" , service=plain'],
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://h/t",
                        "scope": "repository:a/b:pull,push",
                        "service": "plain",
                    },
                )
            ],
        ),
        (
            ['Bearer realm="https://h/t", Basic realm="x"'],
            [Challenge("bearer", {"realm": "https://h/t"}), Challenge("basic", {"realm": "x"})],
        ),
        (
            ['Bearer realm="a"', 'Basic realm="b"'],
            [Challenge("bearer", {"realm": "a"}), Challenge("basic", {"realm": "b"})],
        ),
        ([r'Basic realm="a \"quoted\" one"'], [Challenge("basic", {"realm": 'a "quoted" one'})]),
        (
            ['Bearer realm="unfinished'],
            [Challenge("bearer"), Challenge("realm"), Challenge("unfinished")],
        ),
        (['realm="without a scheme"'], []),
        (["\x00\xff,,==,"], []),
    ],
)
def test_challenges_are_read_as_the_rfc_writes_them(
    headers: list[str], challenges: list[Challenge]
) -> None:
    """Several in a header, in several headers, quoted or not; nonsense breaks nothing."""
    assert parse_challenges(headers) == challenges
