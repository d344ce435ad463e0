"""Jinja templates of this package; HTML is rendered with everything escaped."""

from __future__ import annotations

from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """A template of `nowcast/report` filled in, with the style of all pages as `page_css`.

    A name that the template asks for and does not get is an error.
    """
    css = Markup(resources.files("nowcast.report").joinpath("page.css").read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nowcast.report", ""),
        autoescape=template.endswith(".html.jinja"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(page_css=css, **values)
