"""All order certificates, their report, and their table.

    python studies/certificates/run.py    # a few minutes, one thread

It writes studies/certificates/report and docs/certificates.md.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
import xarray as xr

import sdeverify as sv
from sdeverify.exact.spectral.refinement import SHARE

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "refutation"))

from routes import finding  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "certificates.md"
HEAD = """# Order certificates

Both sides of each comparison are computed on grids, from the optimizer's own step and the SDE's own
drift and diffusion as coded, with a bound on the numerical error; nothing is sampled. *Resolved* is
how many weak errors are at least 100 times their bound; *bound* the largest one, *smallest* the
smallest weak error, both over all observables, times and rungs. Orders are in the SDE's time of one
optimizer step. Made by `python studies/certificates/run.py`, on one thread of a machine with other
work, so that the seconds are no measurement; the
[report](../studies/certificates/report/report.md) has every error.

| certificate | ladder | claimed | order [95%] | verdict | resolved | bound | smallest | seconds |
|---|---|---|---|---|---|---|---|---|
"""


def row(name: str, tree: xr.DataTree) -> str:
    """One certificate's line."""
    found = finding(tree["order"].to_dataset())
    errors = tree["errors"].to_dataset().isel(step=slice(1, None))
    resolved = errors["bound"] <= SHARE * abs(errors["error"])
    count = f"{int(resolved.sum())} of {resolved.size}"
    interval = f"{found.order:.3f} [{found.low:.2f}, {found.high:.2f}]"
    return (
        f"| {tree.attrs['title']} (`{name}`) | {tree.attrs['ladder']} "
        f"| {tree.attrs['claimed_order']:g} | {interval} "
        f"| {found.verdict} | {count} | {float(errors['bound'].max()):.0e} "
        f"| {float(abs(errors['error']).min()):.0e} | {tree.attrs['seconds']:.1f} |"
    )


def main() -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(HERE))
    from study import STUDY

    tree = sv.certify(STUDY, progress=True)
    rows = [row(name, child) for name, child in tree.children.items()]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    made = sv.write_report(tree, Path("results") / "certificates-exact").parent
    shutil.rmtree(HERE / "report", ignore_errors=True)
    (HERE / "report").mkdir()
    shutil.copy(made / "report.md", HERE / "report")
    ignored = shutil.ignore_patterns("*.pdf")
    shutil.copytree(made / "figures", HERE / "report" / "figures", ignore=ignored)


if __name__ == "__main__":
    main()
