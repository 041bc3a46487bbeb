"""The weights that a server would start with, and where its versions go."""

from __future__ import annotations

from collections.abc import Iterator

from lib.diagnosis.findings import Finding, good, note, wrong
from lib.diagnosis.folders import refusal_to_write
from lib.errors import Sam3DError
from lib.settings import Settings
from lib.weights.versions import open_served


def weights(settings: Settings) -> Iterator[Finding]:
    """Read them as the server does."""
    refusal = refusal_to_write(settings.model_folder)
    if refusal:
        yield wrong(
            "weights",
            f"nothing can be written to model_folder {settings.model_folder}: {refusal}",
            "let the server's user write there, or name another one with --conf model_folder",
        )
    try:
        served = open_served(settings)
    except Sam3DError as error:
        yield wrong("weights", str(error), "name good weights with --conf checkpoint, or none for the demo model")
        return
    for amiss in served.notes:
        yield note("weights", amiss, "cli.py rollback, or restore model_folder from a backup")
    version = served.card.version
    if not served.card.is_trained:
        yield note("weights", f"{version}: its adapters were never trained, so it answers no clicks", "train it first")
    else:
        yield good("weights", f"{version} answers clicks ({settings.variant}; versions are in {served.store.folder})")
