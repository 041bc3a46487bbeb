"""From the image a request names to a path: only images of the datastore, of a session or just uploaded.

The stock server opens any path that exists. Here a name is an id first, and never a path of the client's choice.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import SessionInfo
from requests import RequestException

from lib.infers.failures import answer
from lib.naming import is_series_image

# What tempfile makes, and so what the server calls an upload; the eight random characters cannot be guessed.
UPLOAD_NAME = re.compile(r"tmp[a-z0-9_]{8}(\.[A-Za-z0-9.]+)?")


def find_image(image: object, datastore: Datastore, sessions: Iterable[SessionInfo]) -> str:
    """The path of the file or folder that `image` names; HTTPException 404 if it names none that may be read."""
    if isinstance(image, str) and image:
        if image in datastore.list_images():
            return stored_path(image, datastore)
        # A new series, or one that the search filter leaves out of the list, can be open in a viewer all the same.
        if isinstance(datastore, DICOMWebDatastore) and "." in image and is_series_image(image):
            return stored_path(image, datastore)
        if is_upload(image) or any(image == session.image for session in sessions):
            return image
    raise answer(404, f"there is no image {str(image)[:80]!r} here: name one that /datastore/ lists, or open a session")


def is_upload(path: object) -> bool:
    """Whether `path` is a temporary file as the server makes one for a file sent along with a request."""
    if not isinstance(path, str) or not UPLOAD_NAME.fullmatch(Path(path).name):
        return False
    return Path(path).parent == Path(tempfile.gettempdir()) and Path(path).is_file()


def stored_path(image: str, datastore: Datastore) -> str:
    """The path of an image that the datastore listed; HTTPException 404 if it is there no more."""
    path = _uri(image, datastore)
    if not path:
        raise answer(404, f"the image {image[:80]!r} is there no more: look at the list again")
    if not is_upload(path):
        return path
    # At a DICOM series' first use the datastore answers with a temporary copy, which nobody deletes; then with its own.
    stored = _uri(image, datastore)
    if stored != path:
        Path(path).unlink(missing_ok=True)
    return stored


def _uri(image: str, datastore: Datastore) -> str:
    try:
        return str(datastore.get_image_uri(image))
    except IndexError as error:
        raise answer(404, f"the DICOM server has no series {image}: reload the study") from error
    except RequestException as error:
        raise answer(502, f"the DICOM server did not deliver series {image}: {type(error).__name__}") from error
    except RuntimeError as error:
        raise answer(422, f"series {image} cannot be read as one volume: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
