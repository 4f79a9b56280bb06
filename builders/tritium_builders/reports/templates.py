"""The templates of pages, and the words that they share."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package.

    Args:
        template: Its name in `templates/`.
        **values: What it shows; everything is escaped but what is `Markup`.

    Raises:
        ModuleNotFoundError: when jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    import jinja2
    from markupsafe import Markup

    folder = resources.files(__package__) / "templates"
    environment = jinja2.Environment(
        # Read through importlib: a package may be an archive.
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["in_percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}"
    environment.filters["percent"] = lambda share, digits=1: (
        f"{100 * share:.{digits}f}\N{NARROW NO-BREAK SPACE}%"
    )
    environment.filters["points"] = lambda points: f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")
    environment.filters["count"] = lambda number: f"{number:,}".replace(
        ",", "\N{NARROW NO-BREAK SPACE}"
    )
    style = (folder / "page.css").read_text("utf-8")
    environment.globals["style"] = Markup(style)  # noqa: S704 # nosec B704 # ours
    return environment
