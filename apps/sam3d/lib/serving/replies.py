"""From the result of a task to the answer of /infer, in the four shapes that MONAI Label's clients ask for."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi.responses import JSONResponse, Response
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder

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
    content, kind = mask.read_bytes(), get_mime_type(mask.name)
    if output == "image":
        return _attachment(content, mask.name, kind)
    form = MultipartEncoder(
        {"params": (None, json.dumps(params), "application/json"), "image": (mask.name, content, kind)}
    )
    return Response(form.to_string(), media_type=form.content_type)


def dicom_seg_of(result: dict[str, Any], image_path: str) -> Response:
    """The answer with the mask as a DICOM SEG of the series, whose instances the datastore keeps beside its image."""
    series = next((image_path.removesuffix(ending) for ending in FORMATS if image_path.endswith(ending)), image_path)
    mask = open_volume(result["file"])
    masks = {name: mask.array == value for name, value in result["params"]["label_names"].items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mask.dcm"
        write_seg(masks, mask.affine, Path(series), path)
        return _attachment(path.read_bytes(), path.name, "application/dicom")


def _attachment(content: bytes, name: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})
