"""Opens reports in headless Chromium and checks how they look. `.ci/browser.sh` runs this program.

python -m tests.report_in_browser [--pictures FOLDER]
"""

import argparse
import base64
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from eval.identify.page import write_page
from eval.report import __main__ as report
from tests.eval.fake_identification import make_identification
from tests.eval.fake_identify_run import make_identify_run
from tests.eval.fake_run import make_image_run, make_run

logger = logging.getLogger("report_in_browser")

WIDTHS = (360, 390, 768, 1280)
SCHEMES = ("light", "dark")
# With these flags Chromium loads only the page: no updates, no services and no user data.
_FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# This script returns the faults of a page as a list of texts.
_FAULTS = r"""
const faults = [];
const root = document.documentElement;
if (root.scrollWidth > root.clientWidth) {
  faults.push(`scrolls sideways: ${root.scrollWidth} in ${root.clientWidth} pixels`);
}
for (const image of document.images) {
  if (!image.complete || !image.naturalWidth) faults.push(`not decoded: ${image.alt}`);
}
const name = element => (element.ariaLabel || element.textContent || element.tagName).trim().slice(0, 60);
for (const figure of document.querySelectorAll("figure, figure svg, figure img, .table")) {
  const box = figure.getBoundingClientRect();
  if (!(box.width > 60 && box.height > 60)) faults.push(`no size: ${figure.tagName} ${name(figure)}`);
  if (box.left < -1 || box.right > root.clientWidth + 1) faults.push(`out of the page: ${name(figure)}`);
}

// Contrast by WCAG 2: (lighter + 0.05) / (darker + 0.05) of relative luminances.
const channels = colour => colour.match(/[\d.]+/g).map(Number);
const luminance = colour => {
  const [r, g, b] = channels(colour).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
// A translucent background, such as that of a selected row, is mixed with those of its parents.
const background = element => {
  const layers = [];
  for (; element; element = element.parentElement) {
    const colour = channels(getComputedStyle(element).backgroundColor);
    layers.unshift(colour.length === 3 ? [...colour, 1] : colour);
  }
  const mixed = layers.reduce((below, [r, g, b, alpha]) =>
    [r, g, b].map((value, place) => alpha * value + (1 - alpha) * below[place]), [255, 255, 255]);
  return `rgb(${mixed.join(", ")})`;
};
let texts = 0;
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility()) continue;
  texts += 1;
  const style = getComputedStyle(element), svg = element.closest("svg");
  const pair = [svg ? style.fill : style.color, background(element)].map(luminance);
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (!(ratio >= 4.5)) faults.push(`contrast ${ratio.toFixed(2)}: ${name(element)}`);
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  const size = parseFloat(style.fontSize) * scale;
  if (!(size >= (svg ? 9 : 11))) faults.push(`letters of ${size.toFixed(1)} pixels: ${name(element)}`);
}
if (!texts) faults.push("no text");

// A table that does not fit scrolls, and a shadow shows where it continues. On a desktop every table fits.
for (const table of document.querySelectorAll(".table")) {
  const overflows = table.scrollWidth > table.clientWidth + 1;
  if (overflows && root.clientWidth >= 1265) faults.push(`does not fit: ${table.ariaLabel}`);
  const layers = getComputedStyle(table).backgroundAttachment.split(", ");
  if (layers.slice(0, 4).join() !== "local,local,scroll,scroll") faults.push(`no cue: ${table.ariaLabel}`);
}
for (const link of document.querySelectorAll("nav a")) {
  if (!document.querySelector(link.hash)) faults.push(`leads nowhere: ${link.textContent}`);
}
if (document.querySelectorAll("nav a").length < 3) faults.push("no table of contents");
if (document.querySelectorAll(".legend").length > 1) faults.push("expected one legend");

// The texts of a chart stay inside it and do not overlap.
for (const svg of document.querySelectorAll("svg")) {
  const frame = svg.getBoundingClientRect();
  const labels = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
  labels.forEach(([text, box], number) => {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
        || box.bottom > frame.bottom + 1) faults.push(`cut: ${name(text)} in ${name(svg)}`);
    for (const [other, near] of labels.slice(number + 1)) {
      const width = Math.min(box.right, near.right) - Math.max(box.left, near.left);
      const height = Math.min(box.bottom, near.bottom) - Math.max(box.top, near.top);
      // The box of a text has some empty space above and below the letters.
      if (width > 1 && height > 4) faults.push(`${name(text)} on ${name(other)} in ${name(svg)}`);
    }
  });
}
return faults;
"""


def main(argv=None):
    """Runs the program. Returns 0 if no page has faults, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also save a picture of every page")
    pictures = parser.parse_args(argv).pictures
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)

    num_checked, num_faults = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        pages = make_pages(Path(folder))
        with open_browser(Path(folder)) as browser:
            for name, page in pages.items():
                for scheme in SCHEMES:
                    for width in WIDTHS:
                        faults = find_faults(browser, page, scheme, width)
                        for fault in faults:
                            logger.error("%s, %s, %d pixels: %s", name, scheme, width, fault)
                        num_checked += 1
                        num_faults += len(faults)
                        if pictures:
                            pictures.mkdir(parents=True, exist_ok=True)
                            (pictures / f"{name}-{scheme}-{width}.png").write_bytes(picture(browser, width))
    logger.info("%d pages checked, %d faults", num_checked, num_faults)
    return 1 if num_faults else 0


def make_pages(folder):
    """Writes reports of one run, of several runs, and of a run with awkward values. Returns paths by name."""
    first = make_run(folder / "first", pairs_per_fold=250)
    second = make_run(
        folder / "second", 1, pairs_per_fold=250, name="vgg-triplet_lfw_0.99467_ytf_0.96040", quality=1.2
    )
    third = make_run(folder / "third", 2, name="model-D", method="best_frames", quality=0.8)
    long_name = "a_name_without_end" * 12
    awkward = make_run(
        folder / "awkward",
        3,
        name=f'<script>alert("1")</script> & {long_name}',
        num_hardest=1,
        num_people=20,
        pairs_per_fold=4,
        quality=2.5,
        coverage={
            "missing": tuple(f"{'Long_Name_' * 9}{number}/1" for number in range(500)),
            "unusable": {f"{'a/' * 60}1.jpg": "expected 112x112, received " + "1" * 90},
        },
    )
    images = make_image_run(folder / "images", pairs_per_fold=600, name="face-v3.keras")
    report.main([str(first.folder)])
    report.main([str(images.folder)])
    report.main([str(awkward.folder)])
    report.main([str(run.folder) for run in (first, second, third)])
    report.main([str(run.folder) for run in (first, second)] + ["--out", str(folder / "two.html")])
    report.main([str(awkward.folder)] * 9 + ["--out", str(folder / "nine.html")])
    identification = folder / "identification.html"
    make_identification(identification, text="A_long_name_" * 3)
    write_page(make_identify_run(), folder / "people.html")
    people = [f"{long_name}{number}" for number in range(12)]
    run = make_identify_run(people, 2, prefix=f"a/{long_name}", text=f" <b> & {long_name[:99]}")
    write_page(run, folder / "many_people.html")
    return {
        "people": folder / "people.html",
        "many_people": folder / "many_people.html",
        "run": first.folder / "report" / "index.html",
        "images": images.folder / "report" / "index.html",
        "awkward": awkward.folder / "report" / "index.html",
        "two": folder / "two.html",
        "three": folder / "comparison.html",
        "nine": folder / "nine.html",
        "identification": identification,
    }


@contextlib.contextmanager
def open_browser(folder):
    """Starts Chromium with an empty profile inside the folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    if os.geteuid() == 0:  # Chromium's sandbox does not work for root.
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    environment = {**os.environ, "HOME": str(folder)}
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver"), env=environment))
    try:
        yield browser
    finally:
        browser.quit()


def find_faults(browser, page, scheme, width):
    """Opens a page with a width in pixels, and returns its faults with all details closed and then open."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    # On a busy machine Chromium returns from `get` while it still reads the page.
    WebDriverWait(browser, 60).until(
        lambda browser: browser.execute_script("return document.readyState") == "complete"
    )
    faults = browser.execute_script(_FAULTS)
    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; });")
    faults += [f"unfolded: {fault}" for fault in browser.execute_script(_FAULTS) if fault not in faults]

    body = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    is_dark = sum(map(int, body[4:-1].split(","))) < 3 * 128
    if is_dark != (scheme == "dark"):
        faults.append(f"background {body}")
    faults += [f"console: {entry['message']}" for entry in browser.get_log("browser")]
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url, by = message["params"]["request"]["url"], message["params"]["documentURL"]
            # Chromium's initial tab may still be loading.
            if url != page.as_uri() and not url.startswith("data:") and not by.startswith("chrome://"):
                faults.append(f"request: {url}")
    return faults


def picture(browser, width):
    """Returns the whole page as PNG."""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16000), "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    sys.exit(main())
