"""HTML pages of one file that need no network: pictures and sounds lie in them. Templates in templates/, by Jinja, escaped."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

TYPES = {"png": "image/png", "wav": "audio/wav", "svg": "image/svg+xml"}


def rendered(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def embedded(suffix: str, data: bytes, title: str = "") -> Markup:
    """A file of this suffix as it is looked at or listened to; a link to it for one that a browser does not show."""
    url = f"data:{TYPES.get(suffix, 'application/octet-stream')};base64,{base64.b64encode(data).decode()}"
    if TYPES.get(suffix, "").startswith("image"):
        return Markup('<img src="{}" alt="{}">').format(url, title)
    if TYPES.get(suffix, "").startswith("audio"):
        return Markup('<audio controls src="{}"></audio>').format(url)
    return Markup('<a download="item.{}" href="{}">item.{}</a>').format(suffix, url, suffix)


@cache
def _environment() -> Environment:
    loader = PackageLoader("momafuse.reports")
    return Environment(loader=loader, autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True)
