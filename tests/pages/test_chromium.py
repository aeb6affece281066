"""Pages in headless Chromium: colours of both displays, width of a phone, printing, and no script of a hostile text."""

import re
import shutil
import subprocess

import pytest
from PIL import Image

from distillkit.pages import Line, LineChart, Page, PageTable, Paragraph, Section, TableRow, as_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIGHT, DARK = (250, 250, 249), (18, 19, 21)
"""The colours of the page in page.css."""
HOSTILE = "<script>document.title = 'bad'</script><img src=x onerror=\"document.title = 'bad'\">"
MEASURE = """<!doctype html><title>measuring</title><iframe id=frame src=page.html width=360></iframe><script>
window.onload = () => {
  const page = document.getElementById('frame').contentDocument;
  const wide = [...page.querySelectorAll('body *')].filter(each => !each.closest('.scroll, .skip, svg')
    && each.getBoundingClientRect().right > 360).map(each => each.tagName);
  document.title = `width ${page.documentElement.scrollWidth}; too wide: ${wide.join(' ') || 'none'}; ${page.title}`;
};</script>"""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a page that has a wide table, a chart and hostile texts."""
    chart = LineChart("Loss", "step", "loss", (Line(HOSTILE, ((0.0, 1.0), (9.0, 2.0)), 0),))
    table = PageTable(HOSTILE, tuple(f"heading {number}" for number in range(30)), (TableRow(("value",) * 30),))
    page = Page("A page", (Paragraph(HOSTILE),), (Section("One", (chart, table)), Section("x" * 500, (table,))))
    folder = tmp_path_factory.mktemp("chromium")
    (folder / "page.html").write_text(as_html(page), encoding="utf-8")
    (folder / "measure.html").write_text(MEASURE)
    return folder


@pytest.fixture(scope="module")
def chromium(folder):
    def run(*options, page="page.html"):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        command += ["--allow-file-access-from-files", "--hide-scrollbars", *options, (folder / page).as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)

    return run


@pytest.mark.parametrize(("scheme", "colour"), [("1", LIGHT), ("0", DARK)], ids=["light", "dark"])
def test_the_page_follows_the_display(chromium, folder, scheme, colour):
    picture = folder / f"{scheme}.png"
    chromium(f"--screenshot={picture}", "--window-size=800,600", f"--blink-settings=preferredColorScheme={scheme}")
    with Image.open(picture) as shot:
        pixels = shot.convert("RGB")
        assert pixels.getpixel((2, 2)) == colour
        assert len(pixels.getcolors(2**20)) > 50  # text, lines and their smooth edges


def test_nothing_but_a_table_is_wider_than_a_phone(chromium):
    shown = chromium("--dump-dom", page="measure.html").stdout
    assert re.search("<title>(.*?)</title>", shown)[1] == "width 360; too wide: none; A page"


def test_a_page_can_be_printed(chromium, folder):
    chromium(f"--print-to-pdf={folder / 'page.pdf'}")
    assert (folder / "page.pdf").read_bytes().startswith(b"%PDF")
