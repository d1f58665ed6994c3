"""How the views look: the style sheets of drawings, of fragments in notebooks, and of report pages.

Fragments take the colours of the page around them or transparent ones, since a notebook's theme cannot be known;
drawings and report pages bring their own background, light or dark as the reader's system is. Everything is scoped to
``rg`` classes.
"""

from __future__ import annotations

from collections.abc import Mapping

FRAGMENT = """
.rg{font:14px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;
color:inherit;max-width:64rem}
.rg code{font-size:.85em;background:none;color:inherit;opacity:.75;overflow-wrap:anywhere;padding:0}
.rg .rg-head{font-weight:600;margin:1.1em 0 .35em;padding-bottom:.15em;border-bottom:1px solid rgba(128,128,128,.3)}
.rg .rg-quiet{opacity:.75;font-size:.9em}
.rg .rg-quiet code{opacity:1}
.rg .rg-figure,.rg .rg-scroll{overflow-x:auto}
.rg .rg-table{border-collapse:collapse;width:100%;table-layout:auto;margin:0 0 1em;font-size:1em;border:0}
.rg .rg-table caption{text-align:left;opacity:.75;font-size:.9em;padding:0 0 .4em;caption-side:top;color:inherit}
.rg .rg-table th,.rg .rg-table td{text-align:left;vertical-align:top;padding:.45em .7em;white-space:normal;
background:none;border:0;border-bottom:1px solid rgba(128,128,128,.25)}
.rg .rg-table th{font-weight:600;font-size:.85em;opacity:.8}
.rg .rg-table .rg-num{width:1%;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.rg .rg-table .rg-stage{width:1%;white-space:nowrap}
.rg .rg-table .rg-time{min-width:8em;vertical-align:middle}
.rg .rg-text{overflow-wrap:anywhere}
.rg .rg-full{white-space:pre-wrap;margin:.3em 0}
.rg .rg-more>summary{cursor:pointer;overflow-wrap:anywhere;display:block}
.rg .rg-more>summary::after{content:'more';margin-left:.4em;font-size:.85em;text-decoration:underline;opacity:.75}
.rg .rg-more[open]>summary::after{content:'less';margin:0}
.rg .rg-more[open]>summary .rg-cut{display:none}
.rg .rg-chips{margin-top:.3em;font-size:.8em;line-height:1.9}
.rg .rg-chips i{opacity:.6;font-style:normal}
.rg .rg-chip{background:rgba(128,128,128,.16);border-radius:1em;padding:.1em .6em;white-space:nowrap}
.rg .rg-answer{font-size:1.1em;white-space:pre-wrap;overflow-wrap:anywhere;padding:.6em .9em;margin:.3em 0;
border-left:4px solid rgba(128,128,128,.5);background:rgba(128,128,128,.08);border-radius:0 6px 6px 0}
.rg .rg-similar{text-decoration:underline dotted rgba(128,128,128,.9) 1.5px;text-underline-offset:.2em}
.rg .rg-no{text-decoration:underline dashed rgba(217,119,6,.9) 1.5px;text-underline-offset:.2em}
.rg .rg-warn{font-size:.7em;border-radius:1em;padding:.1em .6em;margin-left:.4em;white-space:nowrap;
background:rgba(217,119,6,.22);border:1px solid rgba(217,119,6,.8)}
.rg sup{font-size:.75em;line-height:0}
.rg sup a{color:inherit;text-decoration:none;font-weight:600;padding:0 .1em}
.rg sup a:hover,.rg sup a:focus{text-decoration:underline}
.rg .rg-sources{padding-left:1.8em;margin:.3em 0}
.rg .rg-sources li{margin:.45em 0}
.rg .rg-sources li:target{outline:2px solid}
.rg .rg-quote{font-style:italic;overflow-wrap:anywhere}
.rg .rg-meter,.rg .rg-lane{display:inline-block;height:.6em;border-radius:.3em;
background:rgba(128,128,128,.25);overflow:hidden}
.rg .rg-meter{width:5em}
.rg .rg-lane{width:100%;min-width:6em}
.rg .rg-meter>span,.rg .rg-lane>span{display:block;height:100%}
.rg .rg-meter>span{background:rgba(128,128,128,.9)}
.rg .rg-lane>span{background:rgba(56,132,244,.9);min-width:1px}
.rg .rg-passage{border:1px solid rgba(128,128,128,.3);border-radius:6px;padding:.35em .8em;margin:.4em 0}
.rg .rg-passage>summary{cursor:pointer;overflow-wrap:anywhere}
.rg mark{background:rgba(255,196,0,.38);color:inherit;border-radius:2px;padding:.05em 0}
"""

PAGE = """
:root{color-scheme:light dark}
body{background:#fff;color:#1f2328;margin:0 auto;padding:2rem 1.5rem 4rem}
@media screen and (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}}
.rg h1,.rg h2{line-height:1.25;overflow-wrap:anywhere}
.rg h1{font-size:1.9em;margin:0 0 .2em}
.rg h2{font-size:1.4em;margin:0 0 .3em}
.rg h3{font-size:1.1em;margin:1.6em 0 .4em}
.rg nav,.rg section{margin-top:2.2em}
.rg nav p{margin:.2em 0 .6em}
.rg nav td{overflow-wrap:anywhere}
.rg nav a,.rg p a{color:inherit}
.rg .rg-question{border-top:2px solid rgba(128,128,128,.4);padding-top:1.6em}
.rg .rg-number{opacity:.5;font-weight:400;margin-right:.3em}
.rg .rg-figure{text-align:center}
@page{margin:14mm}
@media print{
body{padding:0;max-width:none;font-size:11px}
.rg .rg-question{break-before:page;border:0;padding:0}
.rg tr,.rg li,.rg .rg-answer,.rg .rg-figure{break-inside:avoid}
.rg h2,.rg h3,.rg .rg-head{break-after:avoid}
.rg .rg-figure svg{max-height:200mm}
.rg .rg-more>summary::after{content:''}
.rg .rg-chip,.rg mark,.rg .rg-meter,.rg .rg-lane,.rg span{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""

HEAT = tuple(zip((0.08, 0.17, 0.26, 0.36, 0.46), (1, 1.5, 2, 3, 4), strict=True))
"""Opacity and underline (pixels) of each level of attention, weakest first. Light and dark text alike stay readable on
all of them."""

_SIGNS = {"up": ("217,119,6", "solid"), "down": ("56,132,244", "dotted")}


def _heat_rules() -> str:
    return "\n".join(
        f".rg .rg-{sign}{level}{{background:rgba({colour},{opacity});border-bottom:{line}px {kind} rgba({colour},.95)}}"
        for sign, (colour, kind) in _SIGNS.items() for level, (opacity, line) in enumerate(HEAT, 1)
    )


ATTENTION = f"""
.rg .rg-tokens{{line-height:1.9}}
.rg .rg-tokens>span,.rg .rg-legend>span>span{{border-radius:2px 2px 0 0}}
.rg .rg-prompt{{border:1px dashed rgba(128,128,128,.8);border-radius:3px;font-size:.8em;opacity:.75;padding:0 .25em}}
.rg .rg-legend>span{{display:inline-block;white-space:nowrap;margin-right:.8em}}
.rg .rg-legend>span>span{{padding:0 .3em}}
{_heat_rules()}
"""
"""Beside ``FRAGMENT``: tokens by their attention. The line under a token says what its colour says: its weight, and
solid or dotted."""

_LIGHT = {
    "canvas": "#ffffff", "frame": "#d8dee4", "card": "#f6f8fa", "border": "#afb8c1", "end": "#eaeef2",
    "text": "#1f2328",
    "muted": "#57606a", "accent": "#0969da", "hot": "#bc4c00",
    "query": "#0969da", "ranking": "#8250df", "answer": "#1a7f37", "other": "#57606a",
}
_DARK = {
    "canvas": "#0d1117", "frame": "#30363d", "card": "#161b22", "border": "#57606a", "end": "#21262d",
    "text": "#e6edf3",
    "muted": "#9ea7b3", "accent": "#58a6ff", "hot": "#f0883e",
    "query": "#58a6ff", "ranking": "#bc8cff", "answer": "#56d364", "other": "#9ea7b3",
}

_SHAPES = """
.rg-dag text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
.rg-dag .name{font-size:13px;font-weight:600}
.rg-dag .kind,.rg-dag .took{font-size:11px}
.rg-dag .small,.rg-dag .type{font-size:10.5px}
.rg-dag .took{font-weight:600}
.rg-dag .on-badge{font-size:9px;font-weight:600}
.rg-dag .wire{fill:none;stroke-width:1.6}
.rg-dag .slowest{stroke-width:2.5}
"""

_COLOURS = {
    ".canvas": "fill:{canvas}", ".frame": "stroke:{frame}", ".stage": "fill:{card};stroke:{border}",
    ".end": "fill:{end};stroke:{border}", "text": "fill:{text}", ".kind": "fill:{muted}", ".small": "fill:{muted}",
    ".slowest": "stroke:{hot}", ".hot": "fill:{hot}", ".track": "fill:{frame}", ".bar": "fill:{accent}",
    ".hot-bar": "fill:{hot}",
    ".badge": "fill:{answer}", ".on-badge": "fill:{canvas}",
    **{f".{kind} .wire": f"stroke:{{{kind}}}" for kind in ("query", "ranking", "answer", "other")},
    **{f".{kind} .{part}": f"fill:{{{kind}}}" for kind in ("query", "ranking", "answer", "other")
       for part in ("head", "type")},
}


def _coloured(palette: Mapping[str, str]) -> str:
    """Plain rules rather than CSS variables, which renderers other than browsers do not know."""
    return "\n".join(f".rg-dag {selector}{{{rule.format_map(palette)}}}" for selector, rule in _COLOURS.items())


DRAWING = f"{_SHAPES}{_coloured(_LIGHT)}\n@media screen and (prefers-color-scheme:dark){{\n{_coloured(_DARK)}\n}}\n"
