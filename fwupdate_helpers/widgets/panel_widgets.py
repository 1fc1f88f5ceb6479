"""The ipywidgets of an update panel: a fixed place for everything that a `PanelView` tells."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any, Final

import ipywidgets

from fwupdate_helpers import colours, contract
from fwupdate_helpers.widgets.html_parts import (
    FRAME,
    GREY,
    TEXT,
    html,
    message_html,
    status_html,
)
from fwupdate_helpers.widgets.picture import HEIGHT, WIDTH
from fwupdate_helpers.widgets.view import (
    CANCEL,
    CANCELLED,
    COMPLETED,
    FAILED,
    HUB_AWAY,
    HUB_REFUSES,
    NO_IDENTITY,
    NO_POWER,
    POWER_CUT,
    RESTART,
    ROLLED_BACK,
    START,
    STOPPED,
    Note,
    PanelView,
)

_BUTTONS: Final = {
    START: ("Start update", "play", "Invoke firmwareUpdate on the device"),
    CANCEL: ("Cancel", "stop", "Invoke cancelFirmwareUpdate on the device"),
    POWER_CUT: ("Power cut", "bolt", "Cut the device's power: no clean-up, no goodbye"),
    RESTART: ("Restart device", "power-off", "Give the device its power back"),
}
_SIGNS: Final = {
    COMPLETED: ("✔", colours.GREEN),
    FAILED: ("✖", colours.VERMILLION),
    ROLLED_BACK: ("◀", colours.VERMILLION),
    CANCELLED: ("■", GREY),
    NO_POWER: ("○", GREY),
    STOPPED: ("○", GREY),
    HUB_AWAY: ("?", colours.ORANGE),
    HUB_REFUSES: ("?", colours.ORANGE),
    NO_IDENTITY: ("?", colours.ORANGE),
    **{stage: ("▶", colour) for stage, colour in colours.STAGE_COLOURS.items()},
}
_IDLE: Final = ("•", GREY)


class PanelWidgets:
    """The widgets of one panel.

    Args:
        device_id: The device whose panel it is.

    Attributes:
        root: The widget that holds all others.
        buttons: The buttons, by the names that `view` gives them.
    """

    def __init__(self, device_id: str) -> None:
        self._device_id = device_id
        self.buttons: dict[str, Any] = {name: _button(*how) for name, how in _BUTTONS.items()}
        self._line, self._bar, self._stages = html(), html(), html()
        self._message, self._picture, self._log = html(), html(), html()
        row = {"flex_flow": "row wrap", "overflow": "visible"}
        self.root: Any = ipywidgets.VBox(
            [
                self._line,
                self._bar,
                self._stages,
                ipywidgets.HBox(list(self.buttons.values()), layout=row),
                self._message,
                self._picture,
                self._log,
            ],
            layout={"width": "100%", "max_width": "600px", "overflow": "hidden"},
        )
        self.show_picture(None, "")

    def on_press(self, name: str, handler: Callable[[], None]) -> None:
        """Have `handler` called when a button is pressed."""
        self.buttons[name].on_click(lambda _: handler())

    def show(self, view: PanelView) -> None:
        """Show everything but the picture; what is as it was is not sent again."""
        self._line.value = _line_html(view, self._device_id)
        self._bar.value = _bar_html(view)
        self._stages.value = _stages_html(view)
        self.show_message(view.message)
        self._log.value = _log_html(view.log)
        for name, button in self.buttons.items():
            refusal = view.refusals.get(name)
            button.disabled = refusal is not None
            button.tooltip = refusal or _BUTTONS[name][2]

    def show_message(self, note: Note) -> None:
        """Show what happened and what to do."""
        self._message.value = message_html(note)

    def show_picture(self, png: bytes | None, alt: str) -> None:
        """Show the timeline; None is an empty frame in its place."""
        self._picture.value = _picture_html(png, alt)

    def close(self) -> None:
        """Take the panel off the page."""
        for widget in (*self.root.children, *self.buttons.values(), self.root):
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:  # ipywidgets keeps each of them until it is closed
                    part.close()


def _button(description: str, icon: str, tooltip: str) -> Any:
    return ipywidgets.Button(
        description=description,
        icon=icon,
        tooltip=tooltip,
        disabled=True,
        style={"font_size": "15px"},
        layout={"width": "auto", "height": "34px", "padding": "0 10px", "margin": "2px 6px 2px 0"},
    )


def _sign(view: PanelView) -> tuple[str, str]:
    return _SIGNS.get(view.state, _IDLE)


def _line_html(view: PanelView, device_id: str) -> str:
    sign, colour = _sign(view)
    return status_html(device_id, view.text, sign=sign, colour=colour)


def _bar_html(view: PanelView) -> str:
    colour = _sign(view)[1]
    frame = f"{FRAME}height:18px;overflow:hidden;background:var(--jp-layout-color2,#EEE);"
    aria = f'role="progressbar" aria-label="Firmware update" aria-valuenow="{view.percent}" '
    aria += f'aria-valuemin="0" aria-valuemax="100" aria-valuetext="{escape(view.text)}"'
    fill = f"width:{view.percent}%;height:100%;background:{colour};"
    return f'<div {aria} style="{frame}"><div style="{fill}"></div></div>'


def _stages_html(view: PanelView) -> str:
    items = "".join(_stage_html(view, place, name) for place, name in enumerate(view.stages))
    style = "display:flex;gap:4px;list-style:none;margin:0;padding:0;font-size:15px;"
    return f'<ol aria-label="Stages" style="{TEXT}{style}">{items}</ol>'


def _stage_html(view: PanelView, place: int, name: str) -> str:
    mark, word = _stage_mark(view, place)
    begun, last = place < view.stages_begun, place == view.stages_begun - 1
    colour = colours.STAGE_COLOURS.get(name, colours.YELLOW) if begun else "#8C8C8C"
    style = f"flex:1 1 auto;border-bottom:4px {'solid' if begun else 'dotted'} {colour};"
    style += "white-space:nowrap;padding:0 2px;margin:0;"
    style += "font-weight:bold;" if last else ""
    current = ' aria-current="step"' if last else ""
    label = f'aria-label="{escape(name)}: {word}"'
    return f'<li {label}{current} style="{style}">{mark} {escape(name)}</li>'


def _stage_mark(view: PanelView, place: int) -> tuple[str, str]:
    if place >= view.stages_begun:
        return "○", "to come"
    if place < view.stages_begun - 1 or view.state == COMPLETED:
        return "✔", "done"
    if view.timeline and view.timeline.outcome == contract.COMPLETED:
        return "✔", "done"
    if view.timeline and view.timeline.outcome:
        return "✖", "not finished"
    return ("▶", "running") if view.state in contract.STAGES else ("‖", "stands still")


def _picture_html(png: bytes | None, alt: str) -> str:
    place = f"width:100%;aspect-ratio:{WIDTH}/{HEIGHT};box-sizing:border-box;"
    if png is None:
        words = "The timeline of the update grows here."
        centre = "display:flex;align-items:center;justify-content:center;font-size:15px;"
        return f'<div style="{TEXT}{FRAME}{place}{centre}">{words}</div>'
    data = b64encode(png).decode()
    source = f'src="data:image/png;base64,{data}"'
    return f'<img alt="{escape(alt)}" decoding="sync" style="{place}display:block" {source}>'


def _log_html(lines: tuple[str, ...]) -> str:
    # Laid out from the bottom, the box keeps the newest line in sight.
    box = f"{FRAME}height:calc(7em + 4px);overflow-y:auto;font-size:15px;"
    box += "display:flex;flex-direction:column-reverse;"
    text = "white-space:pre-wrap;overflow-wrap:anywhere;padding:2px 6px;margin-bottom:auto;"
    words = escape("\n".join(lines)) or "Nothing has happened on the device yet."
    return (
        f'<div role="log" aria-label="What happened on the device" tabindex="0" '
        f'style="{TEXT}{box}"><div style="{text}">{words}</div></div>'
    )
