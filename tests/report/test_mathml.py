from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from sdeverify.report.mathml import aligned_at_relation, aligned_latex, display, symbol_latex

SPACE = "{http://www.w3.org/1998/Math/MathML}"


def test_an_equation_is_cut_at_its_ampersand_or_its_first_outer_equals_sign() -> None:
    assert aligned_at_relation(r"dx &= a\,dt") == ("dx", r"= a\,dt")
    assert aligned_at_relation(r"\sum_{i=1} x_i = 2 = 1 + 1") == (r"\sum_{i=1} x_i", "= 2 = 1 + 1")
    assert aligned_at_relation("x > 0") == ("x > 0", "")


def test_equations_become_well_formed_mathml_with_a_row_each() -> None:
    equations = (
        r"d\theta &= -P^{-1}\left(\nabla f(\theta)\,dt+\sigma_0\Sigma^{1/2}\,dW_t\right)",
        r"\mathrm{d}u = c_2\left(\operatorname{diag}\Sigma-u\right)\mathrm{d}t",
        r"\gamma_i(t) &= 1-e^{-c_i t},\quad x < 1 \tfrac{\eta}{4}|\nabla f|^2",
    )
    tree = ElementTree.fromstring(display(equations))
    assert len(tree.findall(f".//{SPACE}mtr")) == 3
    letters = "".join(tree.itertext())
    for wanted in ("θ", "∇", "Σ", "diag", "γ"):
        assert wanted in letters
    assert "\\" not in letters
    assert "&" not in letters
    assert [m.text for m in tree.iter(f"{SPACE}mi") if m.get("mathvariant")] == ["d", "d"]


def test_latex_that_cannot_be_converted_stands_as_it_is() -> None:
    tree = ElementTree.fromstring(display((r"x = \frac{1}{",)))
    assert "\\frac" in "".join(tree.itertext())


@pytest.mark.parametrize(
    "latex",
    [
        r"x = \text{<script>alert(1)</script>}",
        r"x = \text{<img src=x onerror=alert(1)>}",
        r"x = \text{&lt;script&gt;alert(1)&lt;/script&gt;}",
        r"x = \href{javascript:alert(1)}{y}",
        r"\style{background:url(javascript:alert(1))}{x} = \class{c}{\id{i}{y}}",
        r"x = \includegraphics{http://example.org/x.png}",
        r"x = </math><script>alert(1)</script>",
    ],
)
def test_an_equation_holds_no_live_html(latex: str) -> None:
    tree = ElementTree.fromstring(display((latex,)))
    allowed = {"mrow", "mi", "mo", "mn", "mtext", "mspace", "mstyle", "mtable", "mtr", "mtd"}
    assert {e.tag.removeprefix(SPACE) for e in tree.iter()} <= allowed | {"math"}
    live = {"href", "src", "onerror", "class", "id"}
    assert not any(live & set(element.attrib) for element in tree.iter() if element is not tree)
    assert all(e.get("style", "text-align").startswith("text-align") for e in tree.iter())
    markdown = aligned_latex((latex + "$$<b>",))
    assert "<" not in markdown
    assert "$$" not in markdown


def test_signs_of_order_stay_signs() -> None:
    tree = ElementTree.fromstring(display((r"x < y > 0,\ a \& b",)))
    assert {"<", ">", "&"} <= {element.text for element in tree.iter()}


def test_markdown_gets_an_aligned_environment() -> None:
    text = aligned_latex(("dx = a", "dy &= b"))
    assert text == "\\begin{aligned}\ndx & = a \\\\\ndy & = b\n\\end{aligned}"


@pytest.mark.parametrize(
    ("name", "latex"),
    [
        ("sigma_0", r"\sigma_{0}"),
        ("c2", "c_{2}"),
        ("sqrt(eta) sigma^2", r"\sqrt{\eta}\,\sigma^{2}"),
        ("learning rate", None),
        ("sqrt(eta", None),
    ],
)
def test_plain_symbols_become_latex_and_words_do_not(name: str, latex: str | None) -> None:
    assert symbol_latex(name) == latex
