"""Reports: results as one self-contained page, the same in Markdown, and figures as files.

The figures of one comparison are in `sdeverify.report.figures`; importing that module imports
matplotlib, importing this one does not.
"""

from sdeverify.report.page import write_report

__all__ = ["write_report"]
