"""What a static source reads, and what it refuses to take for a password."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from refresher.errors import Failure, InvalidCredential, Misconfigured
from refresher.model import Source
from refresher.references import Reference
from refresher.sources.static import StaticSource
from tests.conftest import NOON

TOKEN = "dckr_pat_0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the token and the line break that editors leave."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


def _source(file: Path, username: str = "user", expires_on: date | None = None) -> StaticSource:
    return StaticSource(username, Reference(file=file), expires_on=expires_on)


def test_a_file_is_read_anew_each_time(file: Path) -> None:
    """Without surrounding white space; read now, and no end of life known."""
    source = _source(file)
    first = source.obtain(NOON)
    file.write_text("  dckr_pat_another \r\n")
    second = source.obtain(NOON)
    assert (first.username, first.password.reveal()) == ("user", TOKEN)
    assert (first.issued_at, first.expires_at) == (NOON, None)
    assert second.password.reveal() == "dckr_pat_another"


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other kind of reference."""
    monkeypatch.setenv("DOCKERHUB_TOKEN", TOKEN)
    source = StaticSource("user", Reference(env="DOCKERHUB_TOKEN"))
    assert source.obtain(NOON).password.reveal() == TOKEN


def test_it_cannot_issue_a_new_one(file: Path) -> None:
    """Which is what makes it static."""
    source: Source = _source(file)
    assert source.renewable is False


def test_the_share_key_names_the_reference_and_the_user(file: Path) -> None:
    """Never the value; other users and other places have other keys."""
    keys = {
        _source(file).share_key,
        _source(file, "other").share_key,
        StaticSource("user", Reference(env="DOCKERHUB_TOKEN")).share_key,
    }
    assert len(keys) == 3
    assert str(file) in _source(file).share_key
    assert not any(TOKEN in key for key in keys)


def test_the_life_ends_with_the_first_second_of_its_day(file: Path) -> None:
    """In UTC: early is safe."""
    source = _source(file, expires_on=date(2026, 11, 24))
    assert source.obtain(NOON).expires_at == datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize("day", [date(2026, 11, 23), date(2020, 1, 1)])
def test_a_password_past_its_day_is_refused(file: Path, day: date) -> None:
    """Saying which day, and what to do."""
    with pytest.raises(InvalidCredential, match=f"ends on {day}, as expires_on says") as failed:
        _source(file, expires_on=day).obtain(NOON)
    assert TOKEN not in failed.value.message


@pytest.mark.parametrize(
    ("content", "failure", "words"),
    [
        pytest.param(b"", InvalidCredential, "is empty", id="empty"),
        pytest.param(b" \n\n", InvalidCredential, "is empty", id="white space"),
        pytest.param(f"{TOKEN}\nsecond".encode(), InvalidCredential, "one line", id="two lines"),
        pytest.param(f"{TOKEN}\rx".encode(), InvalidCredential, "one line", id="carriage return"),
        pytest.param(f"{TOKEN}\0x".encode(), InvalidCredential, "one line", id="NUL"),
        pytest.param(b"\xff\xfe" + TOKEN.encode(), Misconfigured, "not UTF-8", id="not text"),
    ],
)
def test_what_is_no_password_is_refused(
    file: Path, content: bytes, failure: type[Failure], words: str
) -> None:
    """One clear reason, and nothing of the value in it."""
    file.write_bytes(content)
    with pytest.raises(failure, match=words) as failed:
        _source(file).obtain(NOON)
    assert str(file) in failed.value.message
    assert TOKEN not in failed.value.message


def test_a_missing_file_is_a_matter_of_configuration(tmp_path: Path) -> None:
    """It may come later."""
    with pytest.raises(Misconfigured, match="No such file"):
        _source(tmp_path / "none").obtain(NOON)


def test_an_unset_variable_is_a_matter_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named."""
    monkeypatch.delenv("DOCKERHUB_TOKEN", raising=False)
    with pytest.raises(Misconfigured, match="DOCKERHUB_TOKEN is not set"):
        StaticSource("user", Reference(env="DOCKERHUB_TOKEN")).obtain(NOON)


@pytest.mark.parametrize("username", ["", "a:b"])
def test_a_user_name_that_basic_cannot_carry_is_refused(file: Path, username: str) -> None:
    """Before anything is sent."""
    with pytest.raises(Misconfigured, match="user name"):
        _source(file, username).obtain(NOON)
