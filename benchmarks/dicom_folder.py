"""How soon a folder of many DICOM files is listed: at its first start, and at the next.

    python benchmarks/dicom_folder.py                      # 100,000 headers in 500 series
    python benchmarks/dicom_folder.py --series 50          # a tenth of that

Prints one line of JSON: seconds to the list of all series and to the last header, of either start, with the seconds
of the processor that these took, which other programs do not change, and of one query. Takes about a minute, and a
few where core and disk are shared.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from support.report import report

from lib.dicomweb.archive import Archive
from lib.dicomweb.queries import answer_query, parse_query
from lib.images.dicom_writing import SeriesInfo, write_series

SLICES, SERIES_A_STUDY = 200, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=500, help="series of 200 instances each (500)")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="dicom-folder-"))
    try:
        write(place / "studies", args.series)
        first, again = start(place), start(place)
        report("dicom_folder", series=args.series, instances=args.series * SLICES, first=first, again=again)
    finally:
        shutil.rmtree(place)


def write(folder: Path, n_series: int) -> None:
    """Copies of one header with other UIDs, a folder for each series and files without ending."""
    info = SeriesInfo("PAT0000", "Doe^Many")
    (path,) = write_series(folder / "one", np.zeros((8, 8, 1), np.int16), np.diag([-1, -1, 1.5, 1]), info)
    data, content = pydicom.dcmread(path), path.read_bytes()
    shutil.rmtree(folder / "one")
    study, series, uid = (
        str(data[name].value).encode() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    for number in range(n_series):
        owner = number // SERIES_A_STUDY
        own = content.replace(series, series[:-4] + b"%04d" % number).replace(study, study[:-4] + b"%04d" % owner)
        place = folder / f"patient{owner}" / f"series{number}"
        place.mkdir(parents=True)
        for k in range(SLICES):
            (place / f"{k:04d}").write_bytes(own.replace(uid, uid[:-8] + b"%08d" % (number * SLICES + k)))


def start(place: Path) -> dict[str, float]:
    """Seconds from a start to the list and to the last header, by the clock and of the processor, and for a query of
    all series."""
    begun, used = time.perf_counter(), time.process_time()
    archive = Archive(place / "studies", place / "received", place / "index.sqlite")
    listed = len(archive.series())
    listed_s, listed_cpu_s = time.perf_counter() - begun, time.process_time() - used
    archive.wait()
    whole_s, whole_cpu_s = time.perf_counter() - begun, time.process_time() - used
    asked = time.perf_counter()
    found = answer_query(archive, "series", parse_query([("Modality", "CT")]), "http://127.0.0.1")
    query_s = time.perf_counter() - asked
    archive.close()
    assert len(found) == listed
    return {
        "list_s": round(listed_s, 2),
        "list_cpu_s": round(listed_cpu_s, 2),
        "whole_s": round(whole_s, 2),
        "whole_cpu_s": round(whole_cpu_s, 2),
        "query_s": round(query_s, 4),
    }


if __name__ == "__main__":
    main()
