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

from lib.images.volumes import open_volume
from lib.infers.failures import answer
from lib.infers.reply import FORMATS
from lib.labels.dicom_seg_writing import write_seg
from lib.naming import is_series_image, series_and_phase
from lib.serving.deflate import ENCODING, deflated, is_accepted

DICOM_SEG = "dicom_seg"
UNPACKED = (".nrrd", ".nii")
OUTPUTS = ("image", "json", "all", DICOM_SEG)


def check_output(output: str, datastore: Datastore, image: str) -> None:
    """HTTPException 422 for an `output` that cannot be had: before, not after, the work is done."""
    if output and output not in OUTPUTS:
        raise answer(422, f"output is {output[:40]!r}: it must be one of {list(OUTPUTS)}")
    if output == DICOM_SEG and not isinstance(datastore, DICOMWebDatastore):
        raise answer(422, "output=dicom_seg needs DICOM studies: start the server on a DICOMweb address")
    if output == DICOM_SEG and not is_series_image(image):
        raise answer(422, f"output=dicom_seg needs a DICOM series, and {image[:80]!r} is none: ask for output=all")


def reply_to(result: dict[str, Any], output: str, accept_encoding: str) -> Response:
    """The answer with the mask's bytes (`image`), the params (`json`) or both (nothing, or `all`); compressed where the
    client's Accept-Encoding allows and the mask is not yet.

    From memory: a file would be left behind whenever a client goes away before it has read its answer.
    """
    params, mask = result["params"], Path(result["file"])
    if output == "json":
        return JSONResponse(params)
    kind = get_mime_type(mask.name)
    is_deflated = mask.suffix in UNPACKED and is_accepted(accept_encoding)
    if output == "image":
        headers = {"content-disposition": f'attachment; filename="{mask.name}"'}
        return _response(b"", mask, b"", kind, is_deflated, headers)
    return _form(json.dumps(params), mask, kind, is_deflated)


def dicom_seg_of(result: dict[str, Any], image_path: str) -> Response:
    """The answer with the mask as a DICOM SEG of the series, whose instances the datastore keeps beside its image."""
    image = next((image_path.removesuffix(ending) for ending in FORMATS if image_path.endswith(ending)), image_path)
    series, phase = series_and_phase(Path(image).name)
    mask = open_volume(result["file"])
    masks = {name: mask.array == value for name, value in result["params"]["label_names"].items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mask.dcm"
        write_seg(masks, mask.affine, Path(image).with_name(series), path, phase=phase)
        headers = {"content-disposition": f'attachment; filename="{path.name}"'}
        return Response(path.read_bytes(), media_type="application/dicom", headers=headers)


def _form(params: str, mask: Path, kind: str, is_deflated: bool) -> Response:
    """Params and mask as one form, written by hand: the mask of a large volume should not be copied for it."""
    boundary = uuid4().hex
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f'{params}\r\n--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{mask.name}"\r\n'
        f"Content-Type: {kind}\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    return _response(head, mask, tail, f"multipart/form-data; boundary={boundary}", is_deflated, {})


def _response(head: bytes, mask: Path, tail: bytes, kind: str, is_deflated: bool, headers: dict[str, str]) -> Response:
    headers = {**headers, "vary": "accept-encoding"}
    if is_deflated:
        content = deflated(head, mask, tail)
        return Response(content, media_type=kind, headers={**headers, "content-encoding": ENCODING})
    size = mask.stat().st_size
    body = memoryview(bytearray(len(head) + size + len(tail)))
    body[: len(head)], body[len(head) + size :] = head, tail
    with mask.open("rb") as file:
        file.readinto(body[len(head) : len(head) + size])
    return Response(body, media_type=kind, headers=headers)
