"""A small set in the layout of the Medical Segmentation Decathlon, made of pairs of files: for demonstrations.

python benchmarks/support/decathlon.py --pairs DIR --out DIR --label tumour [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

IMAGE_ENDING, LABEL_ENDING = "_image.nii.gz", "_label.nii.gz"


def make_decathlon(pairs: Path, out: Path, label: str, only: str = "") -> list[str]:
    """Copy `*_image.nii.gz` with `*_label.nii.gz` into imagesTr and labelsTr and write dataset.json; the names."""
    names = []
    for part in ("imagesTr", "labelsTr"):
        (out / part).mkdir(parents=True, exist_ok=True)
    for image in sorted(pairs.rglob(f"*{IMAGE_ENDING}")):
        if only not in image.name:
            continue
        name = image.name.removesuffix(IMAGE_ENDING)
        shutil.copyfile(image, out / "imagesTr" / f"{name}.nii.gz")
        shutil.copyfile(image.with_name(name + LABEL_ENDING), out / "labelsTr" / f"{name}.nii.gz")
        names.append(name)
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    content = {"name": out.name, "labels": {"0": "background", "1": label}, "training": training}
    (out / "dataset.json").write_text(json.dumps(content, indent=1) + "\n")
    return names


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--label", default="target")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    print(f"{args.out}: {len(make_decathlon(args.pairs, args.out, args.label, args.only))} cases")
