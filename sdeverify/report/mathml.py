"""LaTeX equations as MathML: they need no network, no script and no fonts of ours."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element

_OPEN, _CLOSE = "{[(", "}])"


def aligned_at_relation(equation: str) -> tuple[str, str]:
    """An equation cut before its relation: at `&` if it has one, else at its first outer `=`.

    The second part is empty where there is neither.
    """
    depth = 0
    for i, character in enumerate(equation):
        if i and equation[i - 1] == "\\":
            continue
        if character == "&":
            return equation[:i].strip(), equation[i + 1 :].replace("&", "").strip()
        depth += (character in _OPEN) - (character in _CLOSE)
    depth = 0
    for i, character in enumerate(equation):
        depth += (character in _OPEN) - (character in _CLOSE)
        if character == "=" and depth == 0:
            return equation[:i].strip(), equation[i:].strip()
    return equation.strip(), ""


def display(equations: Sequence[str]) -> str:
    """A block of equations, aligned at their relations, as one MathML element."""
    rows = []
    for equation in equations:
        left, right = aligned_at_relation(equation)
        rows.append(
            f'<mtr><mtd style="text-align:right">{_inner(left)}</mtd>'
            f'<mtd style="text-align:left">{_inner(right)}</mtd></mtr>'
        )
    return (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block" class="sde" '
        f'aria-label="{html.escape("; ".join(equations))}"><mtable>{"".join(rows)}</mtable></math>'
    )


def inline(equation: str) -> str:
    """One expression in running text."""
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML">{_inner(equation)}</math>'


def aligned_latex(equations: Sequence[str]) -> str:
    """The same block as LaTeX, for Markdown: an `aligned` environment."""
    cut = [aligned_at_relation(equation) for equation in equations]
    rows = [_text_only(f"{left} & {right}" if right else left) for left, right in cut]
    return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"


def _text_only(latex: str) -> str:
    """LaTeX that neither ends its formula nor opens an HTML tag in Markdown."""
    safe = re.sub(r"(?<!\\)\$", r"\\$", latex)
    return safe.replace("<", r"\lt ").replace(">", r"\gt ")


def _inner(latex: str) -> str:
    """The `<mrow>` of one expression; LaTeX that cannot be converted stands as it is."""
    from latex2mathml.converter import convert_to_element

    if not latex:
        return "<mrow></mrow>"
    upright = re.sub(r"\\mathrm\{(\w)\}|\\mathrm (\w)", r"\\text{\1\2}", latex)
    upright = upright.replace("\\displaystyle", "")
    try:
        math = convert_to_element(upright, display="block")
    except Exception:
        return f"<mtext>{html.escape(latex)}</mtext>"
    body = "".join(map(_written, math))
    return re.sub(r"<mtext>(\w)</mtext>", r'<mi mathvariant="normal">\1</mi>', body)


_ELEMENTS = frozenset({
    "mrow", "mi", "mo", "mn", "mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt",
    "mroot", "mover", "munder", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded",
    "mphantom", "menclose",
})  # fmt: skip
_ATTRIBUTES = frozenset({
    "accent", "columnalign", "columnlines", "columnspacing", "depth", "displaystyle", "fence",
    "form", "height", "largeop", "linethickness", "lspace", "mathcolor", "mathsize",
    "mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rowlines", "rowspacing",
    "rspace", "scriptlevel", "separator", "stretchy", "symmetric", "voffset", "width",
})  # fmt: skip
"""What may stand in an equation: presentation alone, no link, no script, no style."""


def _written(element: Element) -> str:
    """An element as MathML, its text as text; of what is not presentation only the content."""
    text = html.escape(html.unescape(element.text or ""))
    content = text + "".join(map(_written, element))
    if element.tag not in _ELEMENTS:
        return f"<mrow>{content}</mrow>"
    attributes = "".join(
        f' {name}="{html.escape(value)}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES
    )
    return f"<{element.tag}{attributes}>{content}</{element.tag}>"


_GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "eta", "theta", "kappa", "lambda"}
    | {"mu", "nu", "rho", "sigma", "tau", "phi", "omega", "Sigma", "Gamma", "Delta", "Theta"}
)


def symbol_latex(name: str) -> str | None:
    """LaTeX of a plain symbol or product such as `sigma0`, `c_2`, `sqrt(eta) sigma^2`.

    None where a part of it is a word.
    """
    parts = [_factor_latex(part) for part in name.split()]
    return r"\,".join(part for part in parts if part) if all(parts) else None


def _factor_latex(name: str) -> str | None:
    match = re.fullmatch(r"(sqrt\()?([A-Za-z]+?)_?(\d*)(\))?(\^-?\d+)?", name)
    if match is None or bool(match[1]) != bool(match[4]):
        return None
    letters, digits = match[2], match[3]
    if letters in _GREEK:
        letters = "\\varepsilon" if letters == "epsilon" else f"\\{letters}"
    elif len(letters) > 1:
        return None
    symbol = f"{letters}_{{{digits}}}" if digits else letters
    symbol = rf"\sqrt{{{symbol}}}" if match[1] else symbol
    return symbol + (f"^{{{match[5][1:]}}}" if match[5] else "")
