from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import xarray as xr

from sdeverify.errors import InvalidInputError
from sdeverify.report import write_report
from sdeverify.report.formatting import percent
from sdeverify.report.rendering import inline_svg, write_whole
from sdeverify.report.results import read_comparison, read_results
from sdeverify.report.sentences import bias_sentence, headline, limit_sentence
from sdeverify.report.tables import limit_text

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Counts elements, collects ids, references and text, and checks that tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.elements.append((tag, held))
        self.ids += [value for key, value in attrs if key == "id" and value]
        keys = ("src", "href", "xlink:href", "srcset", "data", "poster", "action")
        self.loads += [value for key, value in attrs if key in keys and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_loads_nothing(page: Page, report: Path) -> None:
    assert page.open == []
    assert all(value.startswith("#") for value in page.loads)
    assert {tag for tag, _ in page.elements} & {
        "script",
        "link",
        "iframe",
        "img",
        "object",
    } == set()
    text = (report / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_reference_in_the_page_has_its_target_and_ids_are_unique(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert {value.removeprefix("#") for value in page.loads} <= set(page.ids)


def test_figures_and_tables_can_be_read_without_eyes(page: Page) -> None:
    drawings = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert len(drawings) == 1 + 3 * 3
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in drawings)
    heads = [attrs for tag, attrs in page.elements if tag == "th"]
    assert heads
    assert all(attrs.get("scope") in ("col", "row") for attrs in heads)
    tables = sum(tag == "table" for tag, _ in page.elements)
    assert tables == sum(tag == "caption" for tag, _ in page.elements)


def test_the_page_says_verdicts_equations_observables_and_provenance(page: Page) -> None:
    text = " ".join(page.words)
    for wanted in (
        "Do SDEs describe training on handwritten digits?",
        "is each SDE of weak order 1?",
        "3 comparisons: 1 supported, 1 refuted, 1 inconclusive.",
        "Order 1 is supported",
        "Order 1 is refuted",
        "Inconclusive about order 1",
        "theta[0]", "|gradient|^2", "tr Sigma", "accuracy (outside the theorem)",
        "arXiv 2205.10287", "σ ≫ |∇f|", "60 warm-up steps", "mini-batches of 8 of 256",
        "A constant error, the mark of a wrong SDE, is not excluded", "of the coarsest error",
        "It says nothing of other learning rates",
        "size of the skewness: median 0.62, maximum 2.41",
        "sdeverify report studies/digits/study.py", "2.13.0", "float64", "learning_rate = 0.005",
    ):  # fmt: skip
        assert wanted in text
    assert sum(attrs.get("class") == "sde" for tag, attrs in page.elements if tag == "math") == 3


def test_an_inconclusive_comparison_says_how_many_replicas_it_would_take(
    make_comparison: Callable[..., xr.DataTree],
) -> None:
    comparison = read_comparison(
        xr.DataTree(children={"x": make_comparison("svag", "X", 1, 1.5)})["x"]
    )
    line = headline(comparison)
    assert line.verdict == "inconclusive"
    found = re.search(r"About ([\d.]+) times the replicas on both sides, ([\d,]+),", line.sentence)
    assert found
    assert 2 < float(found[1]) < 50
    held = comparison.chains[0].attrs["replicas"]
    assert int(found[2].replace(",", "")) == pytest.approx(held * float(found[1]), rel=0.1)
    errors = comparison.errors
    left = 0.3 * abs(errors["error"])
    blunt = replace(comparison, errors=errors.assign(integrator_residual=left))
    assert "More substeps first" in headline(blunt).sentence


def test_where_no_error_is_resolved_the_number_of_replicas_is_a_least_one(
    make_comparison: Callable[..., xr.DataTree],
) -> None:
    tree = xr.DataTree(children={"x": make_comparison("svag", "X", 1, 15.0)})
    sentence = headline(read_comparison(tree["x"])).sentence
    assert re.search(r"No error is resolved yet: at least \S+ times the replicas", sentence)


def test_the_headline_shows_the_narrowest_interval_on_the_page(
    small_results: xr.DataTree,
) -> None:
    comparison = read_results(small_results).comparisons[0]
    line = headline(comparison)
    assert line.verdict == "supported"
    fits = comparison.order.drop_sel(observable="accuracy").stack(fit=("observable", "step"))
    fits = fits.isel(fit=fits["verdict"].values == "supported")
    width = (fits["order_high"] - fits["order_low"]).values
    narrowest = fits.isel(fit=int(width.argmin()))
    assert (line.observable, line.step) == (narrowest["observable"].item(), narrowest["step"])
    share = percent(float(narrowest["flow_share"]))
    assert f"that is an error of the temperature of {share};" in line.sentence


def test_a_bias_that_was_taken_out_is_told_apart_from_what_may_be_left(
    small_results: xr.DataTree,
) -> None:
    c = read_results(small_results).comparisons[0]
    size = abs(c.errors["error"]) + 2 * c.errors["standard_error"]
    errors = c.errors.assign(integrator_bias=2 * size, integrator_residual=0.001 * size)
    found = re.search(
        r"may have left (\S+)% of the weak error .* its own weak error, (\d+)% of",
        bias_sentence(replace(c, errors=errors)),
    )
    assert found
    assert 0.1 <= float(found[1]) <= 0.2
    assert 200 <= int(found[2]) <= 400


def test_the_limit_stands_beside_the_coarsest_error_and_the_spread(
    small_results: xr.DataTree,
) -> None:
    comparison = read_results(small_results).comparisons[0]
    one = comparison.order.sel(observable="loss").isel(step=-1)
    share = float(one["limit_share"])
    error = abs(float(comparison.errors["error"].sel(observable="loss").isel(step=-1, rung=0)))
    largest = max(abs(float(one["limit_low"])), abs(float(one["limit_high"])))
    assert largest == pytest.approx(share * error, rel=0.05)
    warmth = f"an error of the temperature of {percent(float(one['flow_share']))}"
    wanted = f"for loss ({percent(share)} of the coarsest error, {warmth}, "
    assert wanted in limit_sentence(comparison)
    assert limit_text(one).endswith(f"up to {percent(share)}")


def test_the_markdown_says_the_same_and_its_figures_are_there(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    for wanted in ("**supported**", "**refuted**", "**inconclusive**", r"\begin{aligned}", "$$"):
        assert wanted in text
    files = re.findall(r"\]\(([^)]+)\)", text)
    assert len(files) == 1 + 3 * 3
    assert all((report / file).is_file() for file in files)


def test_rows_of_markdown_tables_have_as_many_cells_as_their_heads(report: Path) -> None:
    width = 0
    for line in (report / "report.md").read_text(encoding="utf-8").splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("| ") else 0
        assert not (width and cells) or cells == width
        width = cells
    assert "| loss |" in (report / "report.md").read_text(encoding="utf-8")


def test_each_figure_is_there_as_svg_and_as_pdf(report: Path) -> None:
    stems = {"summary"} | {
        f"{name}-{kind}"
        for name in ("rmsprop-svag", "adam-svag", "sgd-rates")
        for kind in ("errors", "moments", "signed-errors")
    }
    found = {path.name for path in (report / "figures").iterdir()}
    assert found == {f"{stem}.{end}" for stem in stems for end in ("svg", "pdf")}
    assert (report / "figures" / "summary.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_results_give_the_same_bytes(small_results: xr.DataTree, tmp_path: Path) -> None:
    first = write_report(small_results, tmp_path / "a").parent
    second = write_report(small_results, tmp_path / "b").parent
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * 4
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_text_of_the_user_is_shown_not_interpreted(page: Page, report: Path) -> None:
    assert "<b>a|b</b> $x$" in " ".join(page.words)
    assert r"\<b\>a\|b\</b\> \$x\$" in (report / "report.md").read_text(encoding="utf-8")


def test_a_stored_description_brings_no_live_html_to_the_page(
    small_results: xr.DataTree, tmp_path: Path
) -> None:
    results = small_results.copy(deep=True)
    held = results["rmsprop-svag"].attrs
    description = json.loads(held["description"])
    description["equations"] = [r"x = \text{<script>alert(1)</script>}\href{javascript:a}{y}"]
    description["constants"] = {"<script>": ["<script>", "<script>"]}
    held["description"] = json.dumps(description)
    page = Page(write_report(results, tmp_path).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    assert all(value.startswith("#") for value in page.loads)


def test_a_file_in_the_folders_place_is_refused(small_results: xr.DataTree, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(InvalidInputError, match="is a file"):
        write_report(small_results, tmp_path / "report")


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path / "report.html", "old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_inline_drawing_has_ids_of_its_own_and_no_metadata() -> None:
    svg = (
        '<?xml version="1.0"?>\n<svg width="9pt" viewBox="0 0 9 9"><metadata>x</metadata>'
        '<g id="a" clip-path="url(#c)"/><use xlink:href="#a"/></svg>'
    )
    inline = inline_svg(svg, "f1", 'a "plot"')
    assert inline.startswith('<svg viewBox="0 0 9 9" role="img" aria-label="a &quot;plot&quot;">')
    assert '<g id="f1-a" clip-path="url(#f1-c)"/><use xlink:href="#f1-a"/>' in inline
    assert "metadata" not in inline


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    heavy = "{'torch', 'matplotlib', 'jinja2', 'latex2mathml'}"
    code = f"import sys, sdeverify.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
