"""Secrets that the server is told: one line in a file."""

from __future__ import annotations

from pathlib import Path

from lib.errors import SettingsError

# What cannot be guessed in any time, at the pace of a server.
SHORTEST_TOKEN = 16


def read_token(key: str, path: Path) -> str:
    """The one line of the file that `key` of the settings names; SettingsError for a file without one, or with one that
    could be guessed."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"{key} {path.name} cannot be read ({type(error).__name__})") from error
    if len(text) < SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise SettingsError(
            f"{key} {path.name} must hold one line of at least {SHORTEST_TOKEN} letters, digits and signs, "
            "as `openssl rand -hex 32` writes it"
        )
    return text
