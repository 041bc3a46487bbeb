"""What a label is in DICOM's own words: coded category and type by the label's name, as far as pydicom knows it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

TISSUE = Code("85756007", "SCT", "Tissue")
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
# Words of annotators that DICOM has others for.
ABNORMALITIES = {
    "lesion": Code("52988006", "SCT", "Lesion"),
    **dict.fromkeys(("tumor", "tumour", "neoplasm", "cancer"), Code("108369006", "SCT", "Neoplasm")),
    **dict.fromkeys(("metastasis", "metastases"), Code("14799000", "SCT", "Neoplasm, Secondary")),
    "oedema": Code("79654002", "SCT", "Edema"),
}
# Context groups: lesions (7159), anatomical structures (7192), common tissues (7166).
GROUPS = ((7159, ABNORMALITY), (7192, ANATOMY), (7166, TISSUE))


@dataclass(frozen=True)
class Meaning:
    """The codes of a segment; where no type is known, it is tissue, and its label alone says more."""

    category: Code
    type: Code
    side: Code | None = None


def meaning_of(name: str) -> Meaning:
    """The codes for a label's name, such as `liver`, `kidney_left` or `right lung`."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    side = next((SIDES[word] for word in words if word in SIDES), None)
    rest = [word for word in words if word not in SIDES]
    for word in rest:
        if word in ABNORMALITIES:
            return Meaning(ABNORMALITY, ABNORMALITIES[word])
    keyword = "".join(word.capitalize() for word in rest)
    for group, category in GROUPS:
        found = getattr(getattr(codes, f"cid{group}"), keyword, None) if keyword else None
        if isinstance(found, Code):
            return Meaning(category, found, side)
    return Meaning(TISSUE, TISSUE)
