"""Report and notebooks in headless Chromium (make test-browser; not a part of make test)."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unicodedata
import urllib.request
from pathlib import Path

import hostile
import made_up
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup, NavigableString
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from pypdf import PdfReader

from foalkit import ROOT
from foalkit.report import page as report

WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
POINTS, PIXELS = 72 / 25.4, 96 / 25.4  # in a millimetre
A4, MARGIN = (210, 297), 12  # millimetres; the margin is the page's own
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# no question about news and no request for them; every cell is in the page, not those in sight only
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
# what a hand can move below a cell
RUN = re.compile(r"\[\d+\]:")  # a cell's number, once it has run
MOVED = ".jupyter-widgets :is(select, [role=slider], input[type=checkbox], button:not([disabled], .mod-active))"


@pytest.fixture(scope="session")
def browser():
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.exit(
            "no Chromium: apt-get install chromium (or your system's name), or make test-browser CHROMIUM=path", 1
        )
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program) as started:
        yield started


@pytest.fixture(scope="session")
def ran(tiny_file) -> Path:
    """The tiny corpus's outputs, all of its grid run."""
    call = [sys.executable, "-m", "foalkit", "grid", "--", str(tiny_file)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return tiny_file.parent / "outputs"


# ---- the report ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session", params=["of a grid", "of every column", "of hostile names"])
def reported(request, tmp_path_factory) -> Path:
    """A report with all its figures; one whose first table has all its columns; one of names made to break a page."""
    if request.param == "of a grid":
        return request.getfixturevalue("ran") / "report.html"
    folder = tmp_path_factory.mktemp("reported")
    if request.param == "of every column":
        p = made_up.write_cfn_grid(folder / "out" / "p", seeds=(0, 1, 2))
    else:
        p = made_up.write_named_grid(folder, hostile.NAMES[:4])
    return report.write_report(p, made_up.results(p))


@contextlib.contextmanager
def opened(browser: Browser, file: Path, **context):
    """The report in a tab of its own, which says nothing and asks for nothing but the file."""
    with contextlib.closing(browser.new_context(**context)) as tabs:
        tab, asked, said = tabs.new_page(), [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.goto(file.as_uri())
        yield tab
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] and said == []


def sized(width: int) -> dict:
    return {"viewport": {"width": width, "height": 800}}


@pytest.mark.parametrize("width", WIDTHS)
def test_only_tables_scroll_sideways(browser, reported, width):
    assert reported.stat().st_size < 5e6
    with opened(browser, reported, **sized(width)) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        outside = """() => [...document.querySelectorAll('body *')].filter(e => !e.closest('.wide'))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5
                || e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX != 'visible')
            .map(e => e.outerHTML.slice(0, 80))"""
        assert tab.evaluate(outside) == []
        assert tab.locator("table").count() == tab.locator(".wide > table").count() > 3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(browser, reported, width, scheme):
    with opened(browser, reported, color_scheme=scheme, **sized(width)) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        found = Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
        assert {"color-contrast", "image-alt"} <= {rule["id"] for rule in found.response["passes"]}


def test_tables_are_reached_and_scrolled_by_keyboard(browser, reported):
    with opened(browser, reported, **sized(390)) as tab:
        tables = tab.locator(".wide:visible")
        names, reached = [t.get_attribute("aria-label") for t in tables.all()], []
        assert all(names) and len(set(names)) == len(names)
        for _ in range(tab.locator("a, summary, .wide").count()):
            tab.keyboard.press("Tab")
            focused = tab.evaluate("document.activeElement.getAttribute('aria-label')")
            if focused in names and focused not in reached:
                reached.append(focused)
        assert reached == names
        first = tab.get_by_role("region", name="The ablation, row by row", exact=True)
        first.focus()
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("document.activeElement.scrollLeft > 0")


def luminance(tab: Page, what: str, property: str) -> float:
    """A colour's, between 0 (black) and 1; what is transparent counts as black."""
    colour = tab.evaluate("([e, p]) => getComputedStyle(document.querySelector(e))[p]", [what, property])
    red, green, blue, *alpha = map(float, re.findall(r"[\d.]+", colour))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255 * (alpha[0] if alpha else 1)


def test_dark_where_the_reader_wants_it_dark(browser, reported):
    for scheme in SCHEMES:
        with opened(browser, reported, color_scheme=scheme, **sized(1280)) as tab:
            paper, ink = luminance(tab, "body", "backgroundColor"), luminance(tab, "body", "color")
            assert (paper < 0.15 and ink > 0.8) if scheme == "dark" else (paper > 0.95 and ink < 0.2)
            if scheme == "dark":
                assert luminance(tab, "figure img", "backgroundColor") > 0.95
            tab.emulate_media(media="print")  # on paper light in any case
            assert luminance(tab, "body", "backgroundColor") > 0.95


def squeezed(text: str) -> str:
    """Without blanks, which a line's end takes the place of; ligatures as their letters."""
    return re.sub(r"\s|\xad", "", unicodedata.normalize("NFKC", text))


def test_nothing_is_lost_on_paper(browser, reported, tmp_path):
    with opened(browser, reported, color_scheme="dark") as tab:
        tab.pdf(path=tmp_path / "report.pdf", format="A4")
    read, outside = [], []

    def visit(text, of_page, of_text, *_):
        place = (of_text[4] * of_page[0] + of_text[5] * of_page[2] + of_page[4]) / POINTS
        if text.strip() and not MARGIN - 0.5 <= place <= A4[0] - MARGIN:
            outside.append(text)

    pages = PdfReader(tmp_path / "report.pdf").pages
    for sheet in pages:
        assert [float(side) / POINTS for side in sheet.mediabox[2:]] == pytest.approx(A4, abs=0.5)
        read.append(sheet.extract_text(visitor_text=visit))
    assert outside == []
    printed = squeezed("".join(read))
    body = BeautifulSoup(reported.read_text(encoding="utf-8"), "html.parser").body
    texts = [t for t in body.descendants if isinstance(t, NavigableString) and t.strip() and not t.find_parent("nav")]
    assert len(texts) > 500
    lost = [t for t in texts if squeezed(t) not in printed]
    assert lost == []


def test_tables_fit_on_paper(browser, reported):
    with opened(browser, reported, **sized(int((A4[0] - 2 * MARGIN) * PIXELS))) as tab:
        tab.emulate_media(media="print")
        widths = tab.locator("table").evaluate_all("all => all.map(t => t.getBoundingClientRect().right)")
        assert len(widths) > 5 and max(widths) <= tab.viewport_size["width"]


# ---- the notebooks in JupyterLab ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab(ran, tiny_file, tmp_path_factory):
    """JupyterLab on copies of the notebooks, which read the tiny corpus; its address."""
    folder = tmp_path_factory.mktemp("lab")
    for file in NOTEBOOKS:
        notebook = json.loads(file.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                text = "".join(cell["source"])
                cell["source"] = re.sub(r'^(params\b.*?= )"demo"', rf"\1{str(tiny_file)!r}", text, flags=re.M)
        (folder / file.name).write_text(json.dumps(notebook), encoding="utf-8")
    for name, settings in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    env = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    env |= {f"JUPYTER{name}_DIR": str(folder / name) for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_WORKSPACES")}
    call = [sys.executable, "-m", "jupyterlab", "--no-browser", "--IdentityProvider.token=", f"--port={port}"]
    call += [f"--ServerApp.root_dir={folder}", *(["--allow-root"] if os.getuid() == 0 else [])]
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(call, cwd=folder, env=env, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}/lab"
            wait_for(lambda: answers(address), 60, server.poll)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return answer.status == 200
    return False


def wait_for(until, seconds: float, ended=lambda: None) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert ended() is None and time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.stem)
def all_run(browser, lab, request):
    """A notebook in JupyterLab, after Run All."""
    with contextlib.closing(browser.new_context(viewport={"width": 1280, "height": 1000})) as tabs:
        tab = tabs.new_page()
        tab.goto(f"{lab}/tree/{request.param.name}?reset")
        # before it, Run All would ask for a kernel
        expect(tab.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"\(ipykernel\) \| Idle"), timeout=60_000)
        tab.get_by_role("menuitem", name="Run", exact=True).click()
        tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        prompts = tab.locator(".jp-CodeCell .jp-InputPrompt")
        assert prompts.count() > 2
        failed = tab.locator("[data-mime-type$=error]")
        wait_for(lambda: all(map(RUN.fullmatch, prompts.all_inner_texts())) or failed.count(), 300)
        yield request.param, tab


def test_run_all_and_every_widget_moves_its_picture(all_run):
    file, tab = all_run
    errors = tab.locator(":is([data-mime-type$=error], [data-mime-type$=stderr])")
    assert errors.all_inner_texts() == []
    controls = tab.locator(MOVED)
    if "ipywidgets" in file.read_text(encoding="utf-8"):
        expect(controls.first).to_be_visible(timeout=30_000)
    for control in controls.all():
        before = seen(control)
        moved(control)
        wait_for(lambda control=control, before=before: seen(control) != before, 60)
    assert errors.all_inner_texts() == [] and not tab.get_by_text("Error displaying widget").count()


def seen(control: Locator) -> list[str]:
    """The pictures beside a widget, by their bytes; where it has none, its texts."""
    return control.evaluate("""async control => {
        const area = control.closest('.jp-OutputArea-output');
        const bytes = async picture => {
            const all = new Uint8Array(await (await fetch(picture.src)).arrayBuffer());
            return all.reduce((sum, byte) => (31 * sum + byte) | 0, 0).toString();
        };
        const pictures = [...area.querySelectorAll('img')];
        const texts = [...area.querySelectorAll('.widget-html-content, .jp-OutputArea')].map(e => e.innerText);
        return pictures.length ? Promise.all(pictures.map(bytes)) : texts;
    }""")


def moved(control: Locator) -> None:
    """Move it as a hand would: another entry, a step, a click."""
    if control.evaluate("e => e.tagName") == "SELECT":
        last = control.locator("option").count() - 1
        control.select_option(index=0 if control.evaluate("e => e.selectedIndex") == last else last)
    elif control.get_attribute("role") == "slider":
        at_end = control.get_attribute("aria-valuenow") == control.get_attribute("aria-valuemax")
        control.press("ArrowLeft" if at_end else "ArrowRight")
    elif "widget-upload" in (control.get_attribute("class") or ""):
        with control.page.expect_file_chooser() as asked:
            control.click()
        asked.value.set_files(made_up.tone(Path(tempfile.mkdtemp()) / "tone.wav"))
    else:
        control.click()
