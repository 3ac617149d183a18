"""Pages in one file: templates of this folder, pictures as data URIs."""

import base64
from pathlib import Path
from typing import Any


def rendered(template: str, **content: Any) -> bytes:
    """The page ``template`` of this folder in UTF-8; every value is escaped, a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**content).encode("utf-8", "backslashreplace")


def inline(picture: bytes) -> str:
    """A PNG, JPEG or SVG as a data URI: within an image, no name in a picture can become part of the page."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg" if picture.startswith(b"\xff\xd8") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
