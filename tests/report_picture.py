"""The picture of a report in the README: ``make demo``, then ``python -m tests.report_picture``.

With ``--shots DIR`` pictures of all parts, in both sizes and both color schemes, to look at after a change of the page.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import Final, cast

from PIL import Image

from tests.chromium import require_chromium
from tests.chromium_page import ChromiumPage
from tests.footage import ROOT

REPORT: Final = ROOT / "demo" / "run" / "report.html"
PICTURE: Final = ROOT / "docs" / "report.png"
MAX_BYTES: Final = 300_000
SIZES: Final = {"laptop": (1366, 768), "phone": (390, 844)}
# images that are out of sight may never load
READY: Final = """
Promise.all([...document.images].filter((image) => {
  const {top, bottom} = image.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}).map((image) => image.decode())).then(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done))))
"""


def take_picture(report: Path, picture: Path) -> None:
    """A report from its top to its first clips."""
    with ChromiumPage(require_chromium()) as page:
        page.open(report.resolve().as_uri())
        page.evaluate("document.documentElement.style.overflow = 'hidden'")
        page.evaluate(READY)
        height = page.evaluate("Math.ceil(document.querySelector('.card').getBoundingClientRect().bottom) + 16")
        page.resize(height=height)
        page.evaluate(READY)
        with Image.open(io.BytesIO(page.screenshot())) as image:
            in_few_colors(image.convert("RGB")).save(picture, optimize=True)


def in_few_colors(image: Image.Image, *, num_frequent: int = 32) -> Image.Image:
    """In 256 colors, the most frequent ones as they are: photographs have more colors than a page, but less room."""
    counted = cast(list[tuple[int, tuple[int, int, int]]], image.getcolors(1 << 24))
    frequent = [color for _, color in sorted(counted, reverse=True)[:num_frequent]]
    others = image.quantize(256 - num_frequent).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*others[: 3 * (256 - num_frequent)], *(value for color in frequent for value in color)])
    return image.quantize(palette=palette)


def take_shots(report: Path, folder: Path) -> None:
    """All parts of a report, as they are at the top of the window."""
    folder.mkdir(parents=True, exist_ok=True)
    with ChromiumPage(require_chromium()) as page:
        for is_dark in (False, True):
            for size, (width, height) in SIZES.items():
                page.open(report.resolve().as_uri(), width=width, height=height, is_dark=is_dark)
                for part in ("top", "plots", "clips", "failures"):
                    page.evaluate(f"document.getElementById('{part}').scrollIntoView()")
                    page.evaluate(READY)
                    page.save_screenshot(folder / f"{size}-{'dark' if is_dark else 'light'}-{part}.png")


def main() -> int:
    """Take the picture, or the shots; 1 where the report is not there or the picture is too large."""
    parser = argparse.ArgumentParser(prog="python -m tests.report_picture", description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--shots", type=Path, metavar="DIR", help="pictures of all parts, instead")
    given = parser.parse_args()
    if not given.report.exists():
        print(f"{given.report} is not there: run `make demo` first")
        return 1
    if given.shots:
        take_shots(given.report, given.shots)
        return 0
    take_picture(given.report, given.picture)
    print(f"{given.picture}: {given.picture.stat().st_size} bytes")
    return 0 if given.picture.stat().st_size <= MAX_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
