"""The status page in a real Chromium, with its clock in our hands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, Response, expect, sync_playwright

from refresher.api import Server
from refresher.clock import ManualClock
from refresher.errors import Forbidden, Layer, Unauthorized, Unavailable
from refresher.model import DueReason, Verdict
from refresher.references import Reference
from tests.peers import require
from tests.serving import Daemon, Stage, staged

#: Past the moment at which the page looks again.
POLL = 5_000
#: Until a credential is too old to serve whoever asks for a new one.
A_WHILE = timedelta(minutes=2)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "open-sesame-7f3a"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; one for all tests."""
    chromium = require("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A real server for the tests of this module."""
    with staged() as stage:
        yield stage


@pytest.fixture
def daemon(clock: ManualClock, stage: Stage) -> Iterator[Daemon]:
    """A daemon with one target, `ecr`, published at noon."""
    daemon = Daemon(clock, stage)
    daemon.bench.attempt(daemon.targets["ecr"])
    daemon.serve()
    yield daemon
    daemon.close()


@dataclass
class Visit:
    """A page of the daemon, and all that it asked for and complained of."""

    page: Page
    url: str
    requests: list[Request] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    #: Statuses that the test means to see.
    expected: set[int] = field(default_factory=lambda: {200, 202})

    def asked(self, request: Request) -> None:
        self.requests.append(request)

    def answered(self, response: Response) -> None:
        self.answers.append(response)

    def heard(self, line: str) -> None:
        """What Chromium says of answers is judged by the answers themselves."""
        if not line.startswith("Failed to load resource: "):
            self.complaints.append(line)

    def begin(self, path: str = "/") -> Page:
        """Open a page, and mark it so that a reload would show."""
        self.page.goto(self.url + path)
        self.page.evaluate("window.unreloaded = true")
        return self.page

    def look(self) -> None:
        """Let the page look again."""
        self.page.clock.fast_forward(POLL)

    @property
    def polls(self) -> int:
        """How often the page looked again."""
        return sum(request.resource_type == "fetch" for request in self.requests)

    def end(self) -> None:
        """Nothing from elsewhere, nothing amiss."""
        assert not self.complaints
        assert {answer.status for answer in self.answers} <= self.expected
        assert [r.url for r in self.requests if not r.url.startswith(f"{self.url}/")] == []
        assert self.page.evaluate("window.unreloaded === true")
        assert not re.search(r"token-\d", self.page.content())


def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A visit in a context of its own, judged at its end."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = context.new_page()
    page.set_default_timeout(10_000)
    page.clock.install()
    visit = Visit(page, url)
    page.on("request", visit.asked)
    page.on("response", visit.answered)
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda line: visit.heard(line.text))
    yield visit
    visit.end()
    context.close()


@pytest.fixture
def visit(browser: Browser, daemon: Daemon) -> Iterator[Visit]:
    """A visit to the daemon."""
    yield from visiting(browser, daemon.url)


@pytest.fixture
def fleet(daemon: Daemon) -> Daemon:
    """A daemon with a target of each kind of trouble, and fine ones."""
    bench, now = daemon.bench, daemon.clock.now()
    names = ("expired", "refused", "urgent", "failing", "blank", "fresh", "paused")
    daemon.targets = {name: bench.target(name) for name in names}
    daemon.targets["disabled"] = bench.target("disabled", enabled=False)
    changes: dict[str, tuple[dict[str, object], dict[str, object]]] = {
        "expired": ({"expires_at": now}, {}),
        "refused": ({"verdict": Verdict.UNAUTHORIZED}, {}),
        "urgent": (
            {"issued_at": now - timedelta(hours=9), "expires_at": now + timedelta(hours=2)},
            {},
        ),
        "paused": ({}, {"paused": True}),
    }
    for name, target in daemon.targets.items():
        if name in ("blank", "failing"):
            continue
        bench.attempt(target)
        of_secret, of_status = changes.get(name, ({}, {}))
        _change(daemon, name, of_secret, of_status)
    bench.adopt(daemon.targets["blank"])
    bench.attempt(daemon.targets["failing"])
    daemon.clock.advance(A_WHILE)
    bench.issuer.failure = Forbidden("sts refused the role; allow it in the trust policy")
    bench.attempt(daemon.targets["failing"], DueReason.FORCED)
    bench.issuer.failure = None
    return daemon


def _change(
    daemon: Daemon, name: str, of_secret: dict[str, object], of_status: dict[str, object]
) -> None:
    status = daemon.bench.status(daemon.targets[name])
    secrets = tuple(replace(secret, **of_secret) for secret in status.secrets)  # type: ignore[arg-type]
    changed = replace(status, secrets=secrets, **of_status)  # type: ignore[arg-type]
    daemon.bench.store.update(name, lambda _: changed)


@pytest.fixture
def token(daemon: Daemon, tmp_path: Path) -> str:
    """The token that the daemon asks for."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    daemon.serve(daemon.build(api_token=Reference(file=file)))
    return TOKEN


# --- what is shown -----------------------------------------------------------------------------


def test_each_state_is_a_word_and_a_colour(fleet: Daemon, visit: Visit) -> None:
    """The worst first, each with its own colour; the same word never has two."""
    page = visit.begin()
    expect(page.get_by_role("heading", level=1)).to_have_text("4 of 8 targets in trouble")
    badges = page.locator(".fleet .badge")
    expect(badges).to_have_text(
        ["expired", "refused", "urgent", "failing", "unknown", "fresh", "paused", "disabled"]
    )
    colours = [badge.evaluate("e => getComputedStyle(e).color") for badge in badges.all()]
    bad, _bad, warn, _warn, unknown, fine, parked, _parked = colours
    assert len({bad, warn, unknown, fine, parked}) == 5
    assert (bad, warn, parked) == (_bad, _warn, _parked)


def test_a_bar_shows_what_is_left(daemon: Daemon, visit: Visit) -> None:
    """As wide as the life that is left, with the refresh marked, and told to who cannot see it."""
    daemon.clock.advance(timedelta(hours=3))
    bar = visit.begin().get_by_role(
        "img", name="Remaining life: 9 h left of 12 h, refreshed at 8 h"
    )
    whole, left, mark = (bar.locator(part).bounding_box() for part in (".track", ".left", ".mark"))
    assert whole
    assert left
    assert mark
    assert left["width"] / whole["width"] == pytest.approx(0.75, abs=0.01)
    assert 0.65 < (mark["x"] - whole["x"]) / whole["width"] < 0.72


def test_a_target_has_a_page(fleet: Daemon, visit: Visit) -> None:
    """Reached from the list, with its failure, its plot and its attempts."""
    page = visit.begin()
    page.get_by_role("link", name="failing", exact=True).click()
    page.evaluate("window.unreloaded = true")

    expect(page).to_have_url(f"{visit.url}/targets/failing")
    expect(page.get_by_role("heading", level=1)).to_have_text("failing")
    expect(page.get_by_text("To do: allow it in the trust policy")).to_be_visible()
    expect(page.get_by_role("img", name="Remaining life over the last")).to_be_visible()
    rows = page.get_by_role("table").last.get_by_role("row")
    expect(rows.nth(1)).to_contain_text("sts refused the role")
    expect(rows.nth(2)).to_contain_text("refreshed")


def test_a_filter_narrows_the_list(fleet: Daemon, visit: Visit) -> None:
    """By text and by state, in the address."""
    page = visit.begin()
    page.get_by_role("link", name="4 in trouble").click()
    expect(page.locator(".fleet > li")).to_have_count(4)
    page.get_by_label("Find").fill("URG")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(f"{visit.url}/?q=URG&state=trouble")
    expect(page.locator(".fleet h2 a")).to_have_text("urgent")
    page.evaluate("window.unreloaded = true")


def test_what_a_peer_says_stays_text(daemon: Daemon, visit: Visit) -> None:
    """At once and after an update."""
    words = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    page = visit.begin()
    daemon.clock.advance(A_WHILE)
    daemon.bench.issuer.failure = Unavailable(words)
    daemon.bench.attempt(daemon.targets["ecr"], DueReason.FORCED)
    visit.look()
    expect(page.get_by_text(words)).to_be_visible()
    assert page.locator("main img, main script").count() == 0


def test_without_script_the_page_is_whole(browser: Browser, fleet: Daemon) -> None:
    """It is only not updated, and says so."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(fleet.url)
    expect(page.locator(".fleet > li")).to_have_count(8)
    expect(page.get_by_text("Without JavaScript")).to_be_visible()
    expect(page.get_by_role("button", name="Refresh now")).to_have_count(0)
    context.close()


# --- updates -----------------------------------------------------------------------------------


def test_the_page_updates_without_reloading(daemon: Daemon, visit: Visit) -> None:
    """What changes is changed where it stands."""
    page = visit.begin()
    expect(page.locator(".badge")).to_have_text("fresh")
    daemon.clock.advance(timedelta(hours=10))
    visit.look()
    expect(page.locator(".badge")).to_have_text("urgent")
    expect(page).to_have_title("1 of 1 target in trouble · refresher")


def test_an_update_keeps_focus_scroll_and_what_is_typed(fleet: Daemon, visit: Visit) -> None:
    """Also of a row that moves to another place."""
    page = visit.begin()
    page.get_by_label("Find").fill("half a wo")
    button = page.get_by_role("button", name="Refresh now fresh")
    button.focus()
    page.evaluate("scrollTo(0, 150)")
    fleet.bench.issuer.failure = Unauthorized("no")
    fleet.bench.attempt(fleet.targets["blank"])
    _change(fleet, "fresh", {"expires_at": fleet.clock.now()}, {})
    visit.look()

    expect(page.locator(".fleet .badge").nth(1)).to_have_text("expired")
    expect(button).to_be_focused()
    expect(page.get_by_label("Find")).to_have_value("half a wo")
    assert page.evaluate("scrollY") == 150


def test_targets_come_and_go(daemon: Daemon, visit: Visit) -> None:
    """As the configuration is read anew."""
    page = visit.begin()
    for names in (["a", "ecr", "b"], ["b"], ["c", "ecr"]):
        daemon.targets = {name: daemon.bench.target(name) for name in names}
        visit.look()
        expect(page.locator(".fleet h2 a")).to_have_count(len(names))
        assert set(page.locator(".fleet h2 a").all_inner_texts()) == set(names)


def test_nobody_looks_nothing_is_asked(visit: Visit) -> None:
    """A hidden page rests, and looks at once when it is seen again."""
    page = visit.begin()
    _hide(page, hidden=True)
    visit.look()
    visit.look()
    assert visit.polls == 0
    _hide(page, hidden=False)
    wait_until(page, lambda: visit.polls == 1)


def _hide(page: Page, *, hidden: bool) -> None:
    """Headless Chromium never hides a page by itself."""
    page.evaluate(
        "value => { Object.defineProperty(document, 'hidden', {value, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """Return once the condition holds; the page's events arrive meanwhile."""
    for _ in range(500):
        if condition():
            return
        page.evaluate("0")
    raise AssertionError("it did not happen")


def test_a_daemon_that_is_away_is_told(browser: Browser, daemon: Daemon) -> None:
    """Until it is back; what is shown meanwhile is marked as old."""
    server = Server(daemon.build(), "127.0.0.1", 0)
    server.start()
    for visit in visiting(browser, f"http://127.0.0.1:{server.port}"):
        page = visit.begin()
        server.stop(5)
        visit.look()
        expect(page.get_by_role("status")).to_contain_text("The daemon does not answer since")
        expect(page.locator("body")).to_have_class("outdated")
        server = Server(daemon.build(), "127.0.0.1", server.port)
        server.start()
        visit.look()
        expect(page.get_by_role("status")).to_be_empty()
        expect(page.locator("body")).not_to_have_class("outdated")
    server.stop(5)


# --- asking ------------------------------------------------------------------------------------


def test_refresh_now_refreshes(daemon: Daemon, visit: Visit) -> None:
    """On loopback without a token; the page says what came of it."""
    page = visit.begin()
    daemon.clock.advance(timedelta(hours=2))
    worker = daemon.answer_wishes()
    page.get_by_role("button", name="Refresh now ecr").click()
    expect(page.get_by_role("status")).to_have_text("ecr: refreshed")
    worker.join()

    assert daemon.bench.standing() == "token-2"
    expect(page.locator(".life")).to_contain_text("12 h left")
    expect(page.get_by_role("button", name="Refresh now ecr")).to_be_enabled()
    page.clock.fast_forward(10_000)
    expect(page.get_by_role("status")).to_be_empty()


def test_a_refresh_that_fails_says_why(daemon: Daemon, visit: Visit) -> None:
    """In the words of the failure, and in the row."""
    page = visit.begin("/targets/ecr")
    daemon.clock.advance(A_WHILE)
    daemon.bench.issuer.failure = Unavailable("sts does not answer")
    worker = daemon.answer_wishes()
    page.get_by_role("button", name="Refresh now ecr").click()
    expect(page.get_by_role("status")).to_have_text("ecr: failed: sts does not answer")
    worker.join()
    expect(page.locator(".title .badge")).to_have_text("failing")


def test_while_it_runs_the_button_rests(daemon: Daemon, visit: Visit) -> None:
    """One click is one wish; updates do not wake it early."""
    page = visit.begin()
    page.get_by_role("button", name="Refresh now ecr").click()
    busy = page.get_by_role("button", name="In progress ecr")
    expect(busy).to_have_attribute("aria-disabled", "true")
    visit.look()
    busy.click(force=True)
    daemon.answer_wishes().join()
    expect(page.get_by_role("status")).to_have_text("ecr: refreshed")
    assert sum(request.method == "POST" for request in visit.requests) == 1


def test_without_the_token_nothing_is_refreshed(daemon: Daemon, token: str, visit: Visit) -> None:
    """The page asks for it; who gives none has asked for nothing."""
    visit.expected.add(401)
    page = visit.begin()
    page.get_by_role("button", name="Refresh now ecr").click()
    dialog = page.get_by_role("dialog", name="API token")
    expect(dialog.get_by_label("Token")).to_be_focused()
    dialog.get_by_role("button", name="Cancel").click()

    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Refresh now ecr")).to_be_focused()
    assert daemon.bench.status(daemon.targets["ecr"]).trigger is None
    page.get_by_role("button", name="Refresh now ecr").click()
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Use it").click()
    expect(dialog.get_by_text("The daemon refused that token")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert daemon.bench.status(daemon.targets["ecr"]).trigger is None


def test_with_the_token_it_is_refreshed(daemon: Daemon, token: str, visit: Visit) -> None:
    """It goes into a header and nowhere else, and is kept for as long as the tab."""
    visit.expected.add(401)
    page = visit.begin()
    daemon.clock.advance(A_WHILE)
    worker = daemon.answer_wishes()
    page.get_by_role("button", name="Refresh now ecr").click()
    page.get_by_role("textbox", name="Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("ecr: refreshed")
    worker.join()

    assert token not in page.content()
    assert page.locator("#token-value").input_value() == ""
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.get_by_role("link", name="ecr").click()
    page.evaluate("window.unreloaded = true")
    daemon.clock.advance(A_WHILE)
    worker = daemon.answer_wishes()
    page.get_by_role("button", name="Refresh now ecr").click()
    expect(page.get_by_role("status")).to_have_text("ecr: refreshed")
    worker.join()
    assert daemon.bench.standing() == "token-3"
    asked = [request for request in visit.requests if request.method == "POST"]
    given = [request.headers.get("authorization") for request in asked]
    assert given == [None, f"Bearer {token}", f"Bearer {token}"]
    assert not any(token in request.url for request in visit.requests)


# --- for everyone ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_holds_to_the_rules_of_accessibility(
    browser: Browser, fleet: Daemon, token: str, scheme: str, width: int
) -> None:
    """axe-core finds nothing on any page, by day and by night, wide and narrow."""
    failing = fleet.targets["failing"]
    fleet.bench.judge.failure = Unavailable("x", layers=(Layer("login", None, "no route"),))
    fleet.bench.attempt(failing, DueReason.FORCED)
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    for visit in visiting(browser, fleet.url, **options):
        visit.expected |= {401, 404}
        for path in ("/", "/targets/failing", "/targets/nothing"):
            page = visit.begin(path)
            assert found_by_axe(page) == [], path
        page = visit.begin()
        page.get_by_role("button", name="Refresh now fresh").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert found_by_axe(page) == []


def found_by_axe(page: Page) -> list[str]:
    """Rules that the page breaks, with the nodes that do."""
    violations = Axe().run(page).response["violations"]
    return [f"{v['id']}: {[node['html'] for node in v['nodes']]}" for v in violations]


@pytest.mark.parametrize("path", ["/", "/targets/failing"])
def test_it_fits_a_phone(browser: Browser, fleet: Daemon, path: str) -> None:
    """Nothing is wider than 360 pixels, and what is touched is large enough."""
    for visit in visiting(browser, fleet.url, viewport={"width": 360, "height": 740}):
        page = visit.begin(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        boxes = [b.bounding_box() for b in page.get_by_role("button", name="Refresh now").all()]
        assert boxes
        assert all(box is not None and box["height"] >= 40 for box in boxes)


def test_the_keyboard_reaches_everything(daemon: Daemon, visit: Visit) -> None:
    """In the order in which it is read; Enter does what a click does."""
    page = visit.begin()
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
    assert reached == [
        "Skip to the content",
        "refresher",
        "1 all",
        "0 in trouble",
        "1 fine",
        "ecr",
        "Refresh now ecr",
    ]
    worker = daemon.answer_wishes()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("ecr: refreshed")
    worker.join()
    expect(page.get_by_role("button", name="Refresh now ecr")).to_be_focused()


def test_it_has_landmarks(fleet: Daemon, visit: Visit) -> None:
    """A screen reader finds its way by them."""
    page = visit.begin()
    for landmark in ("banner", "main", "contentinfo", "search", "status"):
        expect(page.get_by_role(landmark)).to_have_count(1)  # type: ignore[arg-type]
    expect(page.get_by_role("navigation", name="Targets by state")).to_be_visible()
    expect(page.get_by_role("list").filter(has=page.get_by_role("heading"))).to_have_count(1)
