"""Mathematics in plain text: LaTeX equations, and notation within prose, with their letters."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = "\N{MULTIPLICATION SIGN}"

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_GREEK = {
    name: unicodedata.lookup(f"GREEK {'SMALL' if name.islower() else 'CAPITAL'} LETTER {spelt}")
    for name, spelt in [
        ("lambda", "LAMDA"),
        *((n, n.upper()) for n in ("alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta")),
        *((n, n.upper()) for n in ("mu", "rho", "sigma", "tau", "phi", "Sigma")),
    ]
}


def power_of_ten(exponent: int) -> str:
    """10 to `exponent`, in superscript digits."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def prose(text: str) -> str:
    """Plain-text mathematics within prose, `sigma_0 >> eta^2`, with its proper letters."""
    letters = "|".join(_GREEK)
    text = re.sub(r"\bgrad f\b", "∇f", text)
    text = re.sub(r"\bsqrt\((\w+)\)", r"√\1", text)
    text = re.sub(
        rf"(?<![A-Za-z_])({letters}|[A-Za-z](?=_\d))_?(\d?)(?![A-Za-z_\d])",
        lambda m: _GREEK.get(m[1], m[1]) + m[2].translate(_SUBSCRIPTS),
        text,
    )
    text = _raised(text)
    text = re.sub(
        r"(\d(?:\.\d+)?)e([-+]\d+)", lambda m: f"{m[1]}{TIMES}{power_of_ten(int(m[2]))}", text
    )
    return text.replace(">>", "≫").replace("<<", "≪")


def equation_text(latex: str) -> str:
    r"""A LaTeX equation as one line of text: `du &= c_2\left(v-u\right)dt` is `du = c₂(v-u)dt`."""
    from pylatexenc.latexwalker import LatexWalker

    grouped = re.sub(r"\^\{([^{}]{2,})\}", r"^(\1)", latex.replace("&", " "))
    syntax, converter = _converter()
    walker = LatexWalker(grouped, latex_context=syntax, tolerant_parsing=True)
    text = converter.nodelist_to_text(walker.get_latex_nodes()[0])
    text = re.sub(r"_(\d)", lambda m: m[1].translate(_SUBSCRIPTS), text)
    text = _raised(re.sub(r"\^\((-?\d+)\)", r"^\1", text))
    text = re.sub(r"\s*([=→])\s*", r" \1 ", text)
    return re.sub(r" +", " ", text).strip()


@cache
def _converter() -> tuple[Any, Any]:
    """pylatexenc's syntax and converter, which learn fractions and roots that stand in one line."""
    from pylatexenc.latex2text import (
        LatexNodes2Text,
        MacroTextSpec,
        get_default_latex_context_db,
    )
    from pylatexenc.latexwalker import get_default_latex_context_db as default_syntax
    from pylatexenc.macrospec import MacroSpec

    def arguments(join: Callable[[list[str]], str]) -> Callable[[Any, Any], str]:
        return lambda node, l2tobj: join(
            [l2tobj.nodelist_to_text([a]) for a in node.nodeargd.argnlist if a is not None]
        )

    def fraction(parts: list[str]) -> str:
        whole = r"√?\([^()]*\)|[^-+ /]*"
        return f"({'/'.join(p if re.fullmatch(whole, p) else f'({p})' for p in parts)})"

    def root(parts: list[str]) -> str:
        return f"√{parts[-1]}" if len(parts[-1]) == 1 else f"√({parts[-1]})"

    syntax, letters = default_syntax(), get_default_latex_context_db()
    names = ("frac", "tfrac", "dfrac")
    syntax.add_context_category("lines", [MacroSpec(n, "{{") for n in names], prepend=True)
    macros = [MacroTextSpec(n, simplify_repl=arguments(fraction)) for n in names]
    macros.append(MacroTextSpec("sqrt", simplify_repl=arguments(root)))
    macros.append(MacroTextSpec("epsilon", _GREEK["epsilon"]))
    letters.add_context_category("lines", macros, prepend=True)
    return syntax, LatexNodes2Text(latex_context=letters, math_mode="text")


def _raised(text: str) -> str:
    """Whole powers in superscript digits."""
    return re.sub(r"\^(-?\d+)", lambda m: m[1].translate(_SUPERSCRIPTS), text)
