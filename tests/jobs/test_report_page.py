"""The report's page: in a real browser, from disk, as a curator sees it."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from jobs.report_page import LIBRARY, render
from tests import report_documents as documents
from tests.chromium import require_chromium
from tests.chromium_page import ChromiumPage
from tests.report_picture import READY, SIZES

SHA256: Final = "87364cc2b2a76a6684929e7d6b80b18a897794db38400caff1fcf1791c6925d2"
HOSTILE: Final = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><!--<script> "&amp;\' {{script}} ]]>',
    "日本語 \u2028\u2029 שלום 🦔 naïve Straße \x00\x07 \\u003c \udc80",
    "<b>bold</b> javascript:window.hacked=1",
)

SMUGGLED: Final = """
document.body.insertAdjacentHTML('beforeend', '<p style="color: red">');
document.body.insertAdjacentHTML('beforeend', '<img src="http://127.0.0.1:9/x" onerror="window.hacked=1">');
document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked=1'}));
"""
WHEN_COPIED: Final = """
new Promise((done) => {
  const button = document.activeElement;
  const look = () => (button.textContent === "Copy" ? setTimeout(look, 10) : done(button.textContent));
  look();
})
"""


class Scripts(HTMLParser):
    """The text of the scripts of a page by their ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._id: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._id = str(dict(attrs).get("id")) if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._id = None

    def handle_data(self, data: str) -> None:
        if self._id is not None:
            self.texts[self._id] = self.texts.get(self._id, "") + data


def hostile_document() -> dict[str, Any]:
    """Every text that comes from outside wants to be markup."""
    clips = [
        documents.clip(
            number,
            [documents.window(None, text, text)],
            uuid=f"{number}-{text}",
            source=text,
            video_id=text,
            status="rejected",
            rejection={"filter": text, "measure": 1, "limit": 2},
            errors={text: text},
            scores={text: 1.0},
            text_match={"text": text},
            clip_href="javascript:window.hacked=1",
        )
        for number, text in enumerate(HOSTILE)
    ]
    failures = [
        {
            "video_id": text,
            "reason": text,
            "message": text,
            "log": text,
            "log_href": HOSTILE[2],
            "line": 1,
            "retry": text,
        }
        for text in HOSTILE
    ]
    plot = documents.plots()[1] | {"title": HOSTILE[0], "labels": [*HOSTILE], "note": HOSTILE[0], "x_label": HOSTILE[0]}
    changes: dict[str, Any] = {"clips": clips, "failures": failures, "first_errors": [*HOSTILE], "plots": [plot]}
    return documents.document(title=HOSTILE[0], **changes)


@pytest.mark.parametrize("document", [hostile_document(), documents.document(clips=documents.clips(4, []))])
def test_the_page_holds_the_document_as_it_is(document: Mapping[str, Any]) -> None:
    assert json.loads(Scripts(render(document)).texts["document"]) == document


def test_numbers_that_json_does_not_have_are_not_known() -> None:
    document = documents.document(figures={"wall_s": float("nan"), "cpu_busy": float("inf"), "num_done": 3})
    held = json.loads(Scripts(render(document)).texts["document"])
    assert held["figures"] == {"wall_s": None, "cpu_busy": None, "num_done": 3}


def test_the_page_can_be_written_whatever_the_names_of_files() -> None:
    assert render(hostile_document()).encode("utf-8")


def test_the_library_is_the_published_one() -> None:
    folder = resources.files("jobs").joinpath("report_assets")
    assert hashlib.sha256(folder.joinpath(*LIBRARY.split("/")).read_bytes()).hexdigest() == SHA256
    assert SHA256 in folder.joinpath("vendor", "README.md").read_text(encoding="utf-8")


# In the browser


@pytest.fixture(scope="module")
def previews() -> list[str]:
    return documents.previews(4)


@pytest.fixture(scope="module")
def browser() -> Iterator[ChromiumPage]:
    with ChromiumPage(require_chromium()) as page:
        yield page


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, previews: list[str]) -> str:
    """A report of 60 clips, 24 of them made at once, and of more failures than are made at once."""
    errors = ["shard 3: a worker ended with signal 9"]
    document = documents.document(
        clips=documents.clips(60, previews), failures=documents.failures(120), first_errors=errors
    )
    return saved(tmp_path_factory.mktemp("report"), document)


def saved(folder: Path, document: Mapping[str, Any]) -> str:
    path = folder / "report.html"
    path.write_text(render(document), encoding="utf-8")
    return path.as_uri()


def uuids(page: ChromiumPage) -> list[str]:
    """Of the cards there are, in order."""
    found: list[str] = page.evaluate("[...document.querySelectorAll('.card')].map(card => card.dataset.uuid)")
    return found


def all_uuids(page: ChromiumPage) -> list[str]:
    """Of all cards, after those that would come when one goes on."""
    page.evaluate(
        "while (!document.querySelector('#clips .more').hidden) document.querySelector('#clips .more').click()"
    )
    return uuids(page)


def count_shown(page: ChromiumPage, part: str = "clips") -> str:
    return str(page.evaluate(f"document.querySelector('#{part} .count').textContent"))


def choose(page: ChromiumPage, name: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const field = document.querySelector('[name={name}]'); field.value = {json.dumps(value)};"
        "field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true})); })()"
    )


def test_the_page_loads_without_a_complaint_and_asks_for_nothing(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    assert browser.complaints == []
    assert browser.requests == [full]
    assert browser.evaluate("document.querySelector('h1').textContent") == "traffic-v0"
    assert browser.evaluate("document.querySelector('.title .badge').textContent") == "Incomplete"


def test_figures_have_the_units_that_people_use(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    text = " ".join(browser.evaluate("document.getElementById('figures').innerText").split())
    expected = ["812 of 830", "13 failed, 5 missing", "44 rejected: 31 by motion, 13 by aesthetic"]
    expected += [
        "83.9 h of 114 h read",
        "77.9 h of GPU time",
        "88.3 %",
        "61.4 %",
        "41.2 s",
        "6 min 28 s",
        "912 GB",
        "4,210",
    ]
    assert [each for each in expected if each not in text] == []


def test_the_policy_stops_what_is_not_the_page_s_own(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    browser.evaluate(SMUGGLED)
    assert browser.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert browser.evaluate("window.hacked === undefined")
    stopped = [each for each in browser.complaints if "Content Security Policy" in each]
    for kind in ("img-src", "script-src", "connect-src", "style-src"):
        assert any(kind in each for each in stopped), browser.complaints


def test_previews_decode_and_move(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    browser.evaluate("document.querySelector('.cards').scrollIntoView()")
    browser.evaluate(READY)
    sizes = browser.evaluate("[...document.images].slice(0, 3).map(image => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [[426, 240]] * 3
    seen = {browser.screenshot()}
    while len(seen) < 3:  # each picture is shown for 200 ms
        seen.add(browser.screenshot())


def test_every_plot_is_drawn(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    colors = browser.evaluate(
        "[...document.querySelectorAll('#plots canvas')].map(canvas => new Set(new Uint32Array("
        "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size)"
    )
    assert len(colors) == len(documents.plots())
    assert min(colors) > 10


def test_every_plot_has_its_numbers_in_a_table(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    cells = "[...document.querySelectorAll('[data-plot=resolution] tbody :is(th, td)')].map(cell => cell.textContent)"
    assert browser.evaluate(cells) == [
        *("480", "40"), *("720", "512"), *("1080", "221"), *("2160 or more", "23")
    ]  # fmt: skip
    assert browser.evaluate(
        "[...document.querySelectorAll('#plots canvas')].every(each => each.getAttribute('aria-label'))"
    )


def test_only_clips_with_all_words_are_shown_and_the_words_marked(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    browser.press("/")
    browser.write("FLOWER  Nose")  # captions 1 of 6 say "flower"; of those, two of three have the caption with "nose"
    fitting = [number for number in range(60) if documents_say(number, "flower", "nose")]
    assert count_shown(browser) == f"{len(fitting)} of 60 shown"
    assert all_uuids(browser) == [documents.clip(number, [])["uuid"] for number in fitting]
    marked = browser.evaluate(
        "[...document.querySelectorAll('.cards mark')].map(mark => mark.textContent.toLowerCase())"
    )
    assert set(marked) == {"flower", "nose"}
    assert browser.evaluate("location.hash") == "#q=FLOWER++Nose"


def documents_say(number: int, *words: str) -> bool:
    """Whether all words are in captions of the clip of that number."""
    windows = documents.clips(60, [])[number]["windows"]
    text = json.dumps([window["captions"] for window in windows]).lower()
    return all(word in text for word in words)


def test_the_window_that_the_search_is_about_is_shown_first(browser: ChromiumPage, full: str) -> None:
    browser.open(full + "#q=butterfly")
    texts = browser.evaluate(
        "[...document.querySelectorAll('.card')].map(card => card.querySelector('.captions').textContent)"
    )
    assert texts
    assert all("butterfly" in text for text in texts)


def test_filters_and_order_come_from_the_address(browser: ChromiumPage, full: str) -> None:
    browser.open(full + "#status=kept&size=1280x720&sort=aesthetic&order=up")
    kept = [each for each in documents.clips(60, []) if (each["status"], each["width"]) == ("kept", 1280)]
    expected = sorted(kept, key=lambda each: float(each["scores"]["aesthetic"]))
    assert all_uuids(browser) == [each["uuid"] for each in expected]
    assert count_shown(browser) == f"{len(kept)} of 60 shown"


def test_clips_can_be_chosen_by_what_rejected_them_and_sorted(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    choose(browser, "filter", "motion")
    choose(browser, "sort", "duration")
    expected = [documents.clip(number, [])["uuid"] for number in (53, 41, 29, 17, 5)]
    assert uuids(browser) == expected
    assert browser.evaluate("document.querySelector('.verdict').textContent") == (
        "Rejected by motion: measured 0.00093, limit 0.002"
    )


def test_a_copied_uuid_finds_its_clip(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    copied = uuids(browser)[3]
    browser.evaluate("document.querySelectorAll('.card')[3].querySelector('[aria-label^=Copy]').focus()")
    browser.press(" ")
    assert browser.evaluate(WHEN_COPIED) == "Copied"
    browser.press("/")
    browser.paste()
    assert uuids(browser) == [copied]


def test_where_nothing_fits_the_page_says_so(browser: ChromiumPage, full: str) -> None:
    browser.open(full + "#q=zebra")
    assert count_shown(browser) == "0 of 60 shown"
    assert browser.evaluate("document.querySelector('#clips .notice').checkVisibility()")
    browser.evaluate(
        "[...document.querySelectorAll('button')].find(each => each.textContent === 'Clear filters').click()"
    )
    assert count_shown(browser) == "60 of 60 shown"
    assert browser.evaluate("document.activeElement.name") == "q"


def test_another_window_is_a_press_of_a_key_away(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    browser.evaluate("document.querySelector('.switch button:nth-of-type(2)').focus()")
    browser.press(" ")
    assert browser.evaluate("document.activeElement.closest('.card').querySelector('.switch').textContent").endswith(
        "frames 128–255"
    )
    assert browser.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"


def test_failures_are_found_by_word_and_reason(browser: ChromiumPage, full: str) -> None:
    browser.open(full)
    choose(browser, "reason", "truncated")
    choose(browser, "failed", "CLIP_003 packet")
    fitting = [documents.failures(120)[number] for number in (31, 34, 37)]
    assert count_shown(browser, "failures") == "3 of 120 shown"
    row = "[...document.querySelectorAll('table.failures tbody td')].slice(0, 5).map(cell => cell.textContent)"
    first = fitting[0]
    log = f"{first['log']}:{first['line']}"
    assert browser.evaluate(row) == [
        first["video_id"], first["reason"], first["message"], log, first["retry"] + "Copy"
    ]  # fmt: skip


def test_hostile_texts_stay_texts(browser: ChromiumPage, tmp_path: Path) -> None:
    document = hostile_document()
    address = saved(tmp_path, document)
    browser.open(address + "#q=script")
    browser.open(address)
    shown = [text.replace("\udc80", "\ufffd") for text in HOSTILE]
    sent = "JSON.stringify([...document.querySelectorAll('.card .text')].map(each => each.textContent.toWellFormed()))"
    assert json.loads(browser.evaluate(sent)) == [text for text in shown for _ in range(2)]
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE[0]
    assert browser.evaluate("document.title") == f"{HOSTILE[0]}: clipmill report"
    assert browser.evaluate(
        "[document.images.length, document.querySelectorAll('main a[href^=javascript]').length]"
    ) == [0, 0]
    assert browser.evaluate("window.hacked === undefined")
    assert browser.complaints == []
    assert browser.requests == [address]


EMPTY: Final = {
    "no previews": documents.document(clips=documents.clips(6, [])),
    "nothing at all": documents.document(figures={}, plots=[], num_clips_sampled_from=0),
    "nothing known": documents.document(
        figures=dict.fromkeys(documents.FIGURES), plots=[], clips=[documents.clip(1, [], scores={}, errors={})]
    ),
}


@pytest.mark.parametrize("name", EMPTY)
def test_what_is_not_there_is_left_out(browser: ChromiumPage, tmp_path: Path, name: str) -> None:
    browser.open(saved(tmp_path, EMPTY[name]))
    assert browser.complaints == []
    assert len(uuids(browser)) == len(EMPTY[name]["clips"])
    text = browser.evaluate("document.body.innerText")
    assert not re.search(r"null|undefined|NaN|\[object", text)
    assert ("There are no clips to show." in text) == (not EMPTY[name]["clips"])


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_wider_than_the_window(browser: ChromiumPage, full: str, size: str, is_dark: bool) -> None:
    width, height = SIZES[size]
    browser.open(full, width=width, height=height, is_dark=is_dark)
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    with Image.open(io.BytesIO(browser.screenshot())) as image:
        assert image.width == width * (2 if size == "phone" else 1)
        brightness = float(np.median(np.asarray(image.convert("L"))))
    assert (brightness < 100) == is_dark


def test_a_large_report_opens_and_answers_at_once(browser: ChromiumPage, tmp_path: Path, previews: list[str]) -> None:
    document = documents.document(clips=documents.clips(300, previews), failures=documents.failures(1000))
    browser.open(saved(tmp_path, document))
    assert len(uuids(browser)) < 100
    before = browser.evaluate("document.querySelectorAll('*').length")
    took_ms = browser.evaluate(
        "(() => { const begun = performance.now(), field = document.querySelector('[name=q]'); field.value = 'rabbit';"
        "field.dispatchEvent(new Event('input')); return performance.now() - begun; })()"
    )
    assert before < 8000
    assert took_ms < 2000  # on a busy machine; 20 ms otherwise
