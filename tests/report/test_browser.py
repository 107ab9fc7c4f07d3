"""The page in a real browser: tables sort, the timeline zooms, no network is asked, hostile text stays text."""

from time import monotonic

import pytest
from browser import browser
from reported import EVIL, hostile_page, material

from mpsim.report.page import page

COLUMN = "[...document.querySelectorAll('#plans tbody tr')].map(row => row.querySelectorAll('td')[{}].textContent)"
WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def chromium():
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(material()))
    return path


def until(one, code, wanted):
    """Wait for what the page does when it has the time."""
    end = monotonic() + 30
    while one.run(code) != wanted:
        assert monotonic() < end, (code, one.run(code), wanted)


def steps(one):
    return one.run("[...document.querySelectorAll('#plans td:nth-child(3)')].map(cell => Number(cell.dataset.value))")


def test_headings_sort_their_table(chromium, report):
    chromium.open(report)
    in_order = steps(chromium)
    assert in_order == sorted(in_order)
    chromium.run("document.querySelector('#plans th[data-key=step] button').click()")
    assert steps(chromium) == in_order
    chromium.run("document.querySelector('#plans th[data-key=step] button').click()")
    assert steps(chromium) == sorted(in_order, reverse=True)
    assert chromium.run("document.querySelector('#plans th[data-key=step]').ariaSort") == "descending"
    assert (chromium.complaints, chromium.asked) == ([], [report.as_uri()])


def test_the_address_sorts_and_zooms(chromium, report):
    chromium.open(report, "#sort=-devices&zoom=0.25,0.5")
    counts = [int(text) for text in chromium.run(COLUMN.format(1))]
    assert counts == sorted(counts, reverse=True)
    assert chromium.run("document.getElementById('timeline-window').textContent") != "the whole step"
    chromium.run("location.hash = '#sort=rank'")
    until(chromium, f"{COLUMN.format(0)}[0]", "1")
    assert chromium.complaints == []


def test_the_timeline_zooms_and_goes_back(chromium, report):
    chromium.open(report)
    whole = "document.getElementById('timeline-window').textContent"
    boxes = "[...document.querySelectorAll('#spans rect')].map(one => Number(one.getAttribute('width')))"
    before = chromium.run(boxes)
    chromium.run("document.querySelector('[data-do=in]').click()")
    assert chromium.run(whole) != "the whole step"
    assert max(chromium.run(boxes)) > max(before)
    chromium.run("document.querySelector('[data-do=all]').click()")
    assert chromium.run(whole) == "the whole step"
    assert chromium.run(boxes) == before
    place = chromium.run(
        "(() => { document.getElementById('timeline-picture').scrollIntoView();"
        " const at = document.getElementById('timeline-picture').getBoundingClientRect();"
        " return [at.left, at.top, at.width, at.height]; })()"
    )
    for kind, part in (("mousePressed", 0.4), ("mouseMoved", 0.5), ("mouseReleased", 0.6)):
        chromium.send("Input.dispatchMouseEvent", type=kind, x=place[0] + part * place[2], y=place[1] + place[3] / 2,
                      button="left", clickCount=1)  # fmt: skip
    until(chromium, f"{whole} !== 'the whole step'", True)
    assert chromium.complaints == []


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window(chromium, report, width, scheme):
    chromium.scheme(scheme)
    chromium.open(report, width=width)
    assert chromium.run(WIDTHS) == [width, width]
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    chromium.scheme("light")


def test_without_scripts_the_tables_and_pictures_are_there(chromium, report):
    chromium.open(report, scripts=False)
    tree = chromium.send("DOMSnapshot.captureSnapshot", computedStyles=["display"])
    texts = {tree["strings"][i] for document in tree["documents"] for i in document["layout"]["text"] if i >= 0}
    assert material().best["plan"].split()[0] in " ".join(texts)
    assert "zoom in" not in texts
    chromium.send("Emulation.setScriptExecutionDisabled", value=False)


def test_hostile_text_is_shown_and_does_nothing(chromium, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(hostile_page())
    chromium.open(path)
    assert chromium.run("document.title") != "owned"
    assert chromium.run("document.querySelectorAll('img, script').length") == 2
    assert chromium.run("document.querySelector('h1').textContent").startswith(EVIL[:60])
    span = "document.querySelector('#spans rect:not([class^=g-]) title').textContent"
    assert "evil.invalid" in chromium.run(span)
    assert (chromium.complaints, chromium.asked) == ([], [path.as_uri()])
