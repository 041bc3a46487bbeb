"""From the result of a task to the answer of /infer, in the four shapes that MONAI Label's clients ask for."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from fastapi.responses import JSONResponse, Response
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import get_mime_type

from lib.dicom_seg_writing import write_seg
from lib.infers.failures import answer
from lib.infers.reply import FORMATS
from lib.volumes import open_volume

DICOM_SEG = "dicom_seg"
OUTPUTS = ("image", "json", "all", DICOM_SEG)


def check_output(output: str, datastore: Datastore) -> None:
    """HTTPException 422 for an `output` that cannot be had: before, not after, the work is done."""
    if output and output not in OUTPUTS:
        raise answer(422, f"output is {output[:40]!r}: it must be one of {list(OUTPUTS)}")
    if output == DICOM_SEG and not isinstance(datastore, DICOMWebDatastore):
        raise answer(422, "output=dicom_seg needs DICOM studies: start the server on a DICOMweb address")


def reply_to(result: dict[str, Any], output: str) -> Response:
    """The answer with the mask's bytes (`image`), the params (`json`) or both (nothing, or `all`).

    From memory: a file would be left behind whenever a client goes away before it has read its answer.
    """
    params, mask = result["params"], Path(result["file"])
    if output == "json":
        return JSONResponse(params)
    kind = get_mime_type(mask.name)
    if output == "image":
        return _attachment(mask.read_bytes(), mask.name, kind)
    return _form(json.dumps(params), mask, kind)


def dicom_seg_of(result: dict[str, Any], image_path: str) -> Response:
    """The answer with the mask as a DICOM SEG of the series, whose instances the datastore keeps beside its image."""
    series = next((image_path.removesuffix(ending) for ending in FORMATS if image_path.endswith(ending)), image_path)
    mask = open_volume(result["file"])
    masks = {name: mask.array == value for name, value in result["params"]["label_names"].items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mask.dcm"
        write_seg(masks, mask.affine, Path(series), path)
        return _attachment(path.read_bytes(), path.name, "application/dicom")


def _form(params: str, mask: Path, kind: str) -> Response:
    """Params and mask as one form. Written by hand, for the mask of a large volume is the whole cost of it, and is read
    to where it is sent from."""
    boundary = uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f'{params}\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{mask.name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    size = mask.stat().st_size
    body = memoryview(bytearray(len(head) + size + len(tail)))
    body[: len(head)], body[len(head) + size :] = head, tail
    with mask.open("rb") as file:
        file.readinto(body[len(head) : len(head) + size])
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


def _attachment(content: bytes, name: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})
