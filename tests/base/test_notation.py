from __future__ import annotations

import pytest

from sdeverify.base.notation import equation_text, prose


def test_prose_gets_greek_letters_and_leaves_words_alone() -> None:
    assert prose("sigma_0 >> sqrt(eta), beta1, c_2 at 2.5e-05") == "σ₀ ≫ √η, β₁, c₂ at 2.5×10⁻⁵"
    assert prose("an alphabet of metals, |grad f|^2") == "an alphabet of metals, |∇f|²"


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"d\theta &= p\,dt", "dθ = p dt"),
        (r"\gamma_i(t) &= 1-e^{-c_i t}", "γ_i(t) = 1-e^(-c_i t)"),
        (r"du &= c_2\left(\mathrm{diag}\,\Sigma-u\right)dt", "du = c₂(diag Σ-u)dt"),
        (r"x = -\frac{\sqrt{a+b}}{c}\,P^{-1}m", "x = -(√(a+b)/c) P⁻¹m"),
        (r"x = \tfrac{\eta}{4}|\nabla f|^2+\sqrt{\eta}\,\Sigma^{1/2}", "x = (η/4)|∇f|²+√η Σ^(1/2)"),
        (r"dW_t &\to 0", "dW_t → 0"),
        (r"x = \frac{a+b}{c}\foo{d}", "x = ((a+b)/c)d"),
        ("x = (1, 2", "x = (1, 2"),
    ],
)
def test_an_equation_reads_on_one_line(latex: str, text: str) -> None:
    assert equation_text(latex) == text
