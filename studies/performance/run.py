"""What a step costs, in units of one plain gradient, as a page with its figure.

python studies/performance/run.py            # under ten minutes alone on a machine

Writes docs/performance.md and docs/figures/network-size.svg. `sdeverify bench` shows the same
tables on the terminal. With `--quick` everything is measured at small sizes and nothing is
written unless `--output` names a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from breakdown import breakdowns
from figure import figure_network_size
from network_size import HIDDEN, point
from page import Findings, page
from precision import changes, settings

from sdeverify.base.devices import one_thread
from sdeverify.benchmarks.measuring import Effort, efforts
from sdeverify.benchmarks.sections import machine, measure, sections

DOCS = Path(__file__).parents[2] / "docs"
FIGURE = Path("figures") / "network-size.svg"


def findings(quick: bool) -> Findings:
    """Everything that the page shows, measured now."""
    effort = efforts(quick, "cpu")

    def told(text: str) -> None:
        print(text, flush=True)

    tables = measure(sections(effort), told)
    weak_errors = []
    for setting in settings(quick):
        weak_errors += changes(setting)
        told(f"precision: {setting.name}")
    points = []
    for hidden in HIDDEN[:3] if quick else HIDDEN:
        points.append(point(hidden, Effort(rounds=5, seconds=1.0)))
        told(f"network of {points[-1].parameters} parameters")
    return Findings(machine("cpu"), tables, weak_errors, points, breakdowns(effort))


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    parser.add_argument("--output", type=Path, help="the folder for the page, by default docs")
    options = parser.parse_args()
    with one_thread():
        found = findings(options.quick)
    text = page(found, FIGURE.as_posix())
    folder = options.output or (None if options.quick else DOCS)
    if folder is None:
        print(text)
        return
    (folder / FIGURE).parent.mkdir(parents=True, exist_ok=True)
    figure_network_size(found.points, folder / FIGURE)
    (folder / "performance.md").write_text(text, encoding="utf-8")
    print(f"Wrote {folder / 'performance.md'}")


if __name__ == "__main__":
    main()
