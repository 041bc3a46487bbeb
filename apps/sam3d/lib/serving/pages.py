"""How pages of our own look, and what a browser may do on them: no script, and forms to this server only."""

from __future__ import annotations

from fastapi.responses import HTMLResponse, Response

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>sam3d</title>
<style>body{{font-family:sans-serif;max-width:{width};margin:4em auto;padding:0 1em}}
input,button{{font-size:1em;padding:.3em}}
th,td{{text-align:left;padding:.2em 1em .2em 0;vertical-align:top;overflow-wrap:anywhere}}
[role=alert]{{color:#a00}}</style>{body}</html>"""
NOT_KEPT = {"Cache-Control": "no-store"}
POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    **NOT_KEPT,
}


def page(body: str, status: int = 200, width: str = "34em") -> Response:
    """A page with a body of HTML, in which everything that is not ours is escaped."""
    return HTMLResponse(PAGE.format(body=body, width=width), status, headers=POLICY)
