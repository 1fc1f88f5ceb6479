"""A figure that notebooks show with its alt text."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import Any

from matplotlib.figure import Figure


class AltTextFigure(Figure):
    """A figure made without pyplot, so that any thread may draw it.

    IPython shows a plain Figure only after pyplot has been imported (measured with
    matplotlib-inline 0.2), and gives it no alt text.

    Args:
        alt_text: What the figure shows, in words.
        options: Those of `Figure`.
    """

    def __init__(self, alt_text: str, **options: Any) -> None:
        super().__init__(**options)
        self.alt_text = alt_text

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=2 * self.dpi)  # sharp on a projector, too
        png, alt = b64encode(buffer.getvalue()).decode(), escape(self.alt_text)
        width = round(self.get_figwidth() * self.dpi)
        image = f'<img alt="{alt}" width="{width}" src="data:image/png;base64,{png}">'
        data = {"text/html": image, "image/png": png, "text/plain": self.alt_text}
        return data, {"image/png": {"width": width, "alt": self.alt_text}}
