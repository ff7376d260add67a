"""A person at the page: finds users, posts events, makes a wish, compares lists, gives a key."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from service.auth.api_keys import new_key
from tests import ROOT
from tests.browser.conftest import HOSTILE, PATIENT, RELEASE, Shop, new_page
from tests.fakes.service_harness import ServiceProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page  # only in .venv-browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# Controls that a screen reader cannot name.
NAMELESS = """() => {
  const isNamed = (each) => each.getAttribute("aria-label") || each.textContent.trim()
    || (each.labels && each.labels.length);
  return [...document.querySelectorAll("button, input, select, textarea, a, summary")]
    .filter((each) => each.checkVisibility() && !isNamed(each)).map((each) => each.outerHTML);
}"""
# The smallest contrast of any visible text with the nearest background behind it (WCAG 2).
CONTRAST = """() => {
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [.2126, .7152, .0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    const isShown = element.checkVisibility() && !element.closest(".unseen, .skip");
    if (!walk.currentNode.data.trim() || !isShown) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, walk.currentNode.data.trim()];
  }
  return worst;
}"""


def open_user(page: "Page", url: str, user: str) -> None:
    page.goto(f"{url}/explore")
    page.evaluate("user => { location.hash = new URLSearchParams({ user }) }", user)
    page.locator("#list li").first.wait_for()


def titles(page: "Page", selector: str) -> list[str]:
    return [str(text) for text in page.locator(f"{selector} .title").all_inner_texts()]


def test_a_user_is_found_with_the_keyboard_alone(page: "Page", shop: Shop) -> None:
    page.goto(f"{shop.url}/explore")
    page.locator("#some-users li").first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type(shop.users[0][:-1])
    page.get_by_role("option", name=shop.users[0]).wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=shop.users[0]).wait_for()
    assert page.locator("#history li").count() >= 5
    assert page.locator("#thoughts li").count() == 5
    assert page.locator("#tree details").count() >= 1
    assert page.locator("#list > li").count() == 10
    assert page.locator("#list .reason").count() >= 5
    assert page.evaluate(NAMELESS) == []
    page.get_by_text("0 of 6 sampled").wait_for()
    page.get_by_text("7 of 7 passed").wait_for()


@pytest.mark.parametrize("port", ["url", "admin_url"])
def test_an_event_moves_the_list_on_both_ports(page: "Page", shop: Shop, port: str) -> None:
    open_user(page, getattr(shop, port), shop.users[1])
    before = titles(page, "#list")
    page.get_by_label("Event type").select_option("purchase")
    page.get_by_role("button", name=f"Post an event: {before[1]}").click()
    page.locator("#list .note").first.wait_for()
    after = titles(page, "#list")
    assert before[1] not in after
    assert titles(page, "#history")[0] == before[1]
    assert "purchase" in page.locator("#history li").first.inner_text()
    assert f"Event posted: {before[1]}" in page.locator("#announce").inner_text()


def test_a_wish_without_a_worker_is_told_to_wait(page: "Page", shop: Shop) -> None:
    open_user(page, shop.admin_url, shop.users[0])
    page.get_by_role("button", name="Think again").click()
    page.get_by_text("No worker is alive, so the thought waits").wait_for()


def test_a_wish_makes_the_night_think_again(page: "Page", shop: Shop) -> None:
    arguments = ["--release", str(RELEASE), "--redis", shop.store, "--out", str(shop.folder)]
    worker = subprocess.Popen(
        [sys.executable, "-m", "offline", "worker", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        open_user(page, shop.url, shop.users[2])
        page.get_by_label("A wish").fill("something for the sea")
        page.get_by_role("button", name="Think again").click()
        page.get_by_text("The night thought again").wait_for(timeout=240_000)
    finally:
        worker.terminate()
        worker.wait(timeout=60)


def test_two_sides_stand_beside_each_other(page: "Page", shop: Shop) -> None:
    open_user(page, shop.url, shop.users[3])
    page.get_by_label("Beside", exact=True).select_option("no-night")
    page.locator("#other-list li").first.wait_for()
    assert "online" in page.locator("#other-head").inner_text()
    here, there = titles(page, "#list"), titles(page, "#other-list")
    same = sum(one == other for one, other in zip(here, there, strict=True))
    both = len({*here} & {*there})
    said = f"{both} of 10 items are in both lists, {same} at the same place."
    assert page.locator("#agreement").inner_text() == said
    notes = page.locator("#list .note").all_inner_texts()
    assert notes.count("only here") == 10 - both
    assert len(notes) == 10 - same
    page.get_by_label("Beside", exact=True).select_option("")
    page.locator("#other").wait_for(state="hidden")


def test_an_item_opens_with_its_neighbours_and_escape_returns(page: "Page", shop: Shop) -> None:
    open_user(page, shop.url, shop.users[4])
    first = page.locator("#list .title").first
    title = first.inner_text()
    first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name=title).wait_for()
    neighbours = titles(page, "#neighbours")
    assert neighbours
    page.locator("#neighbours .title").first.click()
    page.get_by_role("dialog", name=neighbours[0]).wait_for()
    page.keyboard.press("Escape")
    page.locator("#item").wait_for(state="hidden")
    assert first.evaluate("each => each === document.activeElement")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_fits_and_can_be_read(
    browser: "Browser", shop: Shop, width: int, scheme: str
) -> None:
    with new_page(browser, width=width, scheme=scheme) as page:
        open_user(page, shop.url, shop.users[5])
        page.get_by_label("Beside", exact=True).select_option("no-night")
        page.locator("#other-list li").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ratio, text = page.evaluate(CONTRAST)
        assert ratio >= 4.5, text


def test_markup_in_titles_and_ids_stays_text(page: "Page", hostile_url: str) -> None:
    open_user(page, hostile_url, HOSTILE)
    assert page.locator("#user-id").inner_text() == HOSTILE
    assert all(title.startswith(HOSTILE) for title in titles(page, "#list"))
    page.locator("#list .title").first.click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_label("Find a user or an item").fill("<img")
    page.get_by_role("option").first.wait_for()
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("window.hacked") is None


def test_with_api_keys_the_page_asks_for_one(
    browser: "Browser", shop: Shop, tmp_path: Path
) -> None:
    key = new_key()
    owner = {"client": "owner", "scopes": ["admin"], "keys": [{"sha256": key.sha256}]}
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"clients": [owner]}))
    environ = PATIENT | {"THINKAHEAD_KEYS_FILE": str(file)}
    arguments = ["--release", str(RELEASE), "--redis", shop.store]
    with ServiceProcess(*arguments, environ=environ) as service:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{service.url}/explore")
        page.get_by_label("API key").fill(key.key)
        page.get_by_role("button", name="Use the key").click()
        page.locator("#some-users li").first.wait_for()
        page.reload()
        page.locator("#some-users li").first.wait_for()
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_routes_sends_a_request(browser: "Browser", shop: Shop, scheme: str) -> None:
    with new_page(browser, width=390, scheme=scheme) as page:
        page.goto(f"{shop.url}/docs")
        route = page.locator("details.route").filter(has_text="Recommend items to a user").first
        route.locator("> summary").click()
        route.get_by_label("user_id").fill(shop.users[0])
        route.get_by_label("n", exact=True).fill("3")
        route.get_by_role("button", name="Send").click()
        sent = route.get_by_role("status").filter(has_text='"source": "personal"')
        sent.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(NAMELESS) == []
        ratio, text = page.evaluate(CONTRAST)
        assert ratio >= 4.5, text
