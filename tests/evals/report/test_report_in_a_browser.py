"""The report in a real headless Chromium, driven by selenium; skipped where there is none."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.row_files import write_rows
from evals.report.config import ReportConfig
from evals.report.page import report
from tests.evals.run_folders import EVIL, EVIL_QUERY, write_run
from tests.evals.synthetic import generated, row

selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install -e .[dev])")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1000 --force-prefers-reduced-motion"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(ReportConfig(run=write_run(tmp_path_factory.mktemp("runs") / "run")))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> webdriver.Chrome:
    browser.get(page.as_uri())
    return browser


def wait_for(condition: Callable[[], bool]) -> None:
    """Filters act a moment after the last key."""
    for _ in range(100):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the page did not get there")


def matches(browser: webdriver.Chrome) -> str:
    """The count above the list, once the filters have been applied."""
    wait_for(lambda: browser.find_element(By.ID, "list").get_attribute("aria-busy") is None)
    return browser.find_element(By.ID, "matches").text


def cards(browser: webdriver.Chrome) -> list[str]:
    return [card.text for card in browser.find_elements(By.CSS_SELECTOR, "#list .card")]


def test_it_loads_without_a_word_in_the_console(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []
    assert matches(opened) == "60 of 91 negatives"
    assert len(cards(opened)) == 20


def test_a_script_in_a_passage_is_text(opened: webdriver.Chrome) -> None:
    opened.find_element(By.ID, "search").send_keys("onerror")
    wait_for(lambda: matches(opened) == "1 of 91 negatives")
    assert EVIL in cards(opened)[0]
    assert opened.find_element(By.CSS_SELECTOR, "#list h3").text.startswith(EVIL_QUERY)
    assert opened.execute_script("return window.hacked") is None
    assert opened.find_elements(By.CSS_SELECTOR, "#list img, #list script, #list b b") == []
    assert opened.get_log("browser") == []


def test_filters(opened: webdriver.Chrome) -> None:
    def choose(name: str, value: str) -> None:
        Select(opened.find_element(By.ID, name)).select_by_value(value)

    choose("disruption", "intent_drift")
    wait_for(lambda: matches(opened) == "30 of 91 negatives")
    assert all("intent drift" in card for card in cards(opened))
    choose("source", "")
    choose("disruption", "")
    choose("verdict", "answers_query")
    wait_for(lambda: matches(opened) == "1 of 91 negatives")
    assert "the refused passage" in cards(opened)[0]
    assert "answers the query, 1 of 1 requirements hold. it answers" in cards(opened)[0]
    opened.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait_for(lambda: matches(opened) == "60 of 91 negatives")
    choose("source", "")
    wait_for(lambda: matches(opened) == "91 of 91 negatives")
    counts = []
    for place in ("above", "near", "far"):
        choose("place", place)
        counts.append(int(matches(opened).split()[0]))
    # Each scored negative is in one of the three; the refused one has no score.
    assert sum(counts) == 90 and min(counts) > 0
    choose("place", "")
    opened.find_element(By.ID, "from").send_keys("0.2")
    wait_for(lambda: 0 < int(matches(opened).split()[0]) < 90)
    opened.find_element(By.ID, "search").send_keys("no such words")
    wait_for(lambda: "Nothing matches" in opened.find_element(By.ID, "list").text)


def test_without_scores_what_needs_them_is_off(browser: webdriver.Chrome, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [row(0, [generated("a passage")])])
    browser.get(report(ReportConfig(run=tmp_path)).as_uri())
    off = [e.get_attribute("id") for e in browser.find_elements(By.CSS_SELECTOR, "#filters [data-scores]:disabled")]
    assert off == ["place", "from", "to", "order"]
    assert "no scores yet" in browser.find_element(By.ID, "unscored").text
    assert matches(browser) == "1 of 1 negatives"


def test_hardest_first_is_in_order(opened: webdriver.Chrome) -> None:
    Select(opened.find_element(By.ID, "order")).select_by_value("hardest")
    assert matches(opened) == "60 of 91 negatives"
    shown = opened.find_elements(By.CSS_SELECTOR, "#list .card .scale span:last-of-type")
    margins = [float(s.text.split("(")[1].split()[0].replace("−", "-")) for s in shown if "(" in s.text]
    assert len(margins) >= 20
    assert margins == sorted(margins, reverse=True)


def test_changed_words_are_marked_and_can_be_unmarked(opened: webdriver.Chrome) -> None:
    opened.find_element(By.ID, "search").send_keys("answer 7 but")
    wait_for(lambda: matches(opened).startswith("1 of"))
    marked = [mark.text for mark in opened.find_elements(By.CSS_SELECTOR, "#list .right mark")]
    assert marked == ["but", "Solo"]
    assert [mark.text for mark in opened.find_elements(By.CSS_SELECTOR, "#list .left mark")] == ["Team"]
    opened.find_element(By.ID, "marks").click()
    mark = opened.find_element(By.CSS_SELECTOR, "#list .right mark")
    assert mark.value_of_css_property("text-decoration-line") == "none"


def test_an_emoji_does_not_shift_the_marks(opened: webdriver.Chrome) -> None:
    opened.find_element(By.ID, "search").send_keys("answer 5 but")
    wait_for(lambda: matches(opened).startswith("1 of"))
    marked = [mark.text for mark in opened.find_elements(By.CSS_SELECTOR, "#list .right mark")]
    assert marked == ["but", "Solo"]


def test_the_keyboard_is_enough(opened: webdriver.Chrome) -> None:
    body = opened.find_element(By.TAG_NAME, "body")
    body.send_keys("j")
    body_focus = "return document.activeElement.getAttribute('aria-label')"
    assert opened.execute_script(body_focus) == "negative 1"
    opened.switch_to.active_element.send_keys("j")
    assert opened.execute_script(body_focus) == "negative 2"
    opened.switch_to.active_element.send_keys("k")
    assert opened.execute_script(body_focus) == "negative 1"
    opened.switch_to.active_element.send_keys("/")
    assert opened.switch_to.active_element.get_attribute("id") == "search"
    opened.switch_to.active_element.send_keys("jk")
    assert opened.switch_to.active_element.get_attribute("value") == "jk"
    opened.get(opened.current_url)
    opened.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert opened.switch_to.active_element.text == "Skip to the content"


def test_more_are_shown_on_demand(opened: webdriver.Chrome) -> None:
    opened.find_element(By.ID, "more").send_keys(Keys.ENTER)
    assert len(cards(opened)) == 40
    assert opened.execute_script("return document.activeElement.getAttribute('aria-label')") == "negative 21"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_in_both_themes(opened: webdriver.Chrome, theme: str) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    )
    background = rgb(opened.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    assert (luminance(background) > 0.5) == (theme == "light")
    for css in ("body", ".note", "nav a", ".chip.generated", ".left h4", ".right h4", ".count"):
        element = opened.find_element(By.CSS_SELECTOR, css)
        assert contrast(rgb(element.value_of_css_property("color")), background) >= 4.5, css
    opened.find_element(By.ID, "theme").click()
    switched = rgb(opened.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
    assert (luminance(switched) > 0.5) == (theme == "dark")
    opened.execute_script("localStorage.clear()")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def rgb(css: str) -> list[float]:
    return [float(part) / 255 for part in css[css.index("(") + 1 : css.index(")")].split(",")[:3]]


def luminance(colour: list[float]) -> float:
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: list[float], second: list[float]) -> float:
    light, dark = sorted([luminance(first), luminance(second)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_nothing_is_wider_than_a_phone(opened: webdriver.Chrome) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened.get(opened.current_url)
    assert opened.execute_script("return document.documentElement.scrollWidth") == 390
    wide = "return [...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"
    opened.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert opened.execute_script(wide) == 0, "every column of every table is in sight"
    shown = opened.find_element(By.CSS_SELECTOR, "#hardness table.cards td")
    label = opened.execute_script("return getComputedStyle(arguments[0], '::before').content", shown)
    assert label == f'"{shown.get_attribute("data-label")}"' and len(label) > 3
    left, right = (opened.find_element(By.CSS_SELECTOR, f"#list .{side}").rect for side in ("left", "right"))
    assert right["y"] > left["y"], "positive and negative stand under each other"
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
