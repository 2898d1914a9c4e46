"""The templates of reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def environment_of(autoescape: bool) -> jinja2.Environment:
    """The environment of templates; a name that is not given is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("sdeverify.report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
