"""Every request of the two viewers, played against a running server, and the traps that lie in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from serving import CASE_SHAPE, LIVER, TUMOR, Reply, Server, make_case, write_study

pytestmark = pytest.mark.app

PAYLOADS = json.loads((Path(__file__).parent / "payloads.json").read_text(encoding="utf-8"))
SHARED = Path(__file__).parents[2].parent / "shared" / "wire" / "fixtures.json"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases: whoever clicks in the first has it, and two viewers ask for the next one."""
    folder = tmp_path_factory.mktemp("wire")
    for name in ("case", "next", "third"):
        write_study(folder / f"{name}.nii.gz", *make_case())
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    conf = {"labels": "tumor,liver,Gefäß,background", "max_clicks": "2000", "next_sample": "first"}
    with Server(tmp_path_factory.mktemp("server"), studies, conf) as running:
        yield running


def test_every_payload_is_answered(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [f"{case['name']}: {fault}" for case in PAYLOADS["infer"] for fault in _play(server, case)]
    failures += [f"{case['name']}: {fault}" for case in PAYLOADS["others"] for fault in _ask(server, case)]
    with capsys.disabled():
        n_failed = len({failure.split(":")[0] for failure in failures})
        print(f"\npayloads played: {len(PAYLOADS['infer']) + len(PAYLOADS['others'])}, failed: {n_failed}")
    assert failures == []
    assert server.files_left() == []


def test_our_payloads_hold_all_recorded_ones() -> None:
    if not SHARED.exists():
        pytest.skip("the recorded payloads are not beside this repository")
    ours = [case["params"] for case in PAYLOADS["infer"]]
    recorded = json.loads(SHARED.read_text(encoding="utf-8"))
    for client in ("ohif_v3", "slicer"):
        for name, params in recorded[client].items():
            if name.startswith(("deep", "vista", "out_of")):
                assert params in ours, f"{client} {name}"


def _play(server: Server, case: dict[str, Any]) -> list[str]:
    client = PAYLOADS["clients"][case["client"]]
    params = {**case["params"], **client["always"]}
    reply = server.infer(params, model=case.get("model", "sam3d"), output=client["output"])
    if reply.mask is None:
        return [f"status {reply.status}: {reply.detail}"]
    values = server.info()["models"]["sam3d"]["labels"]
    return [fault for fault in _faults(reply, case, values) if fault]


def _faults(reply: Reply, case: dict[str, Any], values: dict[str, int]) -> list[str]:
    mask = reply.mask
    assert mask is not None
    if mask.shape != CASE_SHAPE or mask.dtype != np.uint8:
        return [f"the mask is {mask.shape} {mask.dtype}"]
    present = set(np.unique(mask).tolist()) - {0}
    names = {name for name, value in values.items() if value in present}
    found = [
        "holds 255" if 255 in present else "",
        "holds a value that is no label's" if present - set(values.values()) else "",
        "is empty" if case.get("non_empty") and not present else "",
    ]
    if "labels" in case and names != set(case["labels"]):
        found.append(f"holds {sorted(names)} in place of {case['labels']}")
    for name, clicks in case.get("inside", {}).items():
        found += [f"{click} is not {name}" for click in clicks if mask[tuple(click)] != values[name]]
    found += [f"{click} is not 0" for click in case.get("outside", []) if mask[tuple(click)] != 0]
    if "box" in case:
        beyond = mask.copy()
        beyond[tuple(slice(low, high + 1) for low, high in case["box"])] = 0
        found.append("passes the box" if beyond.any() else "")
    if case["client"] == "slicer" and reply.params.get("label_names") != {name: values[name] for name in names}:
        found.append(f"label_names is {reply.params.get('label_names')} for {sorted(names)}")
    return found


def _ask(server: Server, case: dict[str, Any]) -> list[str]:
    response = server.http.request(case["method"], server.url + case["path"], json=case.get("json"), timeout=60)
    if response.status_code != case["status"]:
        return [f"status {response.status_code}"]
    return [f"no {key} in the answer" for key in case["has"] if key not in response.json()]


def values_of(server: Server) -> dict[str, int]:
    return server.info()["models"]["sam3d"]["labels"]


@pytest.mark.parametrize("params", [None, "", "{}", {}, {"tumor": [], "background": []}])
def test_no_clicks_give_an_empty_mask(server: Server, params: object) -> None:  # T1
    reply = server.infer(params)
    assert reply.status == 200, reply.detail
    assert reply.mask is not None
    assert reply.mask.shape == CASE_SHAPE
    assert not reply.mask.any()
    assert reply.params["label_names"] == {}
    assert reply.params["n_clicks"] == 0


def test_each_key_is_the_whole_truth_about_its_label(server: Server) -> None:  # T2
    before = server.infer({"tumor": [list(TUMOR)]})
    server.infer({"tumor": [list(TUMOR)], "liver": [list(LIVER)]})
    after = server.infer({"tumor": [list(TUMOR)], "spleen": [[5, 5, 5]]})
    assert before.mask is not None
    assert after.mask is not None
    assert np.array_equal(before.mask, after.mask)
    assert "spleen" in " ".join(after.params["notes"])


def test_names_keep_their_case_and_their_letters(server: Server) -> None:  # T5
    reply = server.infer({"Gefäß": [list(LIVER)], "Tumor": [list(TUMOR)]})
    assert reply.params["label_names"] == {"Gefäß": values_of(server)["Gefäß"]}


@pytest.mark.parametrize(
    "clicks",
    [
        [[101.2, 87.9, 40.0]],
        [["101", "88", "40"]],
        [[101, 88, 40], [101, 88, 40]],
        [[101, 88], [101, 88, 40]],
        [[101, 88, 40], [-1, 2, 3], [101, 88, 7000]],
    ],
)
def test_odd_clicks_are_read_or_left_out(server: Server, clicks: list[Any]) -> None:  # T6
    reply = server.infer({"tumor": clicks})
    assert reply.mask is not None, reply.detail
    assert reply.mask[TUMOR] == values_of(server)["tumor"]
    assert reply.params["n_clicks"] == 1


def test_negative_wins_where_both_were_clicked(server: Server) -> None:  # T7
    reply = server.infer({"tumor": [list(TUMOR), [103, 90, 41]], "background": [list(TUMOR)]})
    assert reply.mask is not None
    assert reply.mask[TUMOR] == 0
    assert reply.mask[103, 90, 41] == values_of(server)["tumor"]
    assert "background" in " ".join(reply.params["notes"])


def test_only_clicked_labels_come_back(server: Server) -> None:  # T10
    values = values_of(server)
    reply = server.infer({"background": [[90, 80, 40]], "tumor": [list(TUMOR)]})
    assert reply.mask is not None
    assert set(np.unique(reply.mask).tolist()) == {0, values["tumor"]}


def test_lists_of_choices_count_as_their_first(server: Server) -> None:  # T11
    params = {
        "tumor": [list(TUMOR)],
        "result_extension": [".nrrd", ".nii"],
        "device": ["cpu", "cuda"],
        "dataset": ["x"],
    }
    reply = server.infer(params)
    assert reply.mask is not None
    assert reply.content.startswith(b"NRRD")


def test_the_same_request_gives_the_same_mask(server: Server) -> None:
    params = {"tumor": [list(TUMOR)], "result_extension": ".nrrd"}
    assert server.infer(params, output="image").content == server.infer(params, output="image").content


@pytest.mark.parametrize(("extension", "start"), [(".nrrd", b"NRRD"), (".nii.gz", b"\x1f\x8b"), (".nii", b"\\\x01")])
def test_reply_formats_lie_on_the_image_grid(
    server: Server, studies: Path, tmp_path: Path, extension: str, start: bytes
) -> None:
    reply = server.infer({"tumor": [list(TUMOR)], "result_extension": extension}, output="image")
    assert reply.content.startswith(start)
    path = tmp_path / f"reply{extension}"
    path.write_bytes(reply.content)
    mask, image = sitk.ReadImage(str(path)), sitk.ReadImage(str(studies / "case.nii.gz"))
    assert mask.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    assert mask.GetSize() == image.GetSize()
    for ours, theirs in (
        (mask.GetOrigin(), image.GetOrigin()),
        (mask.GetSpacing(), image.GetSpacing()),
        (mask.GetDirection(), image.GetDirection()),
    ):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert mask.GetPixel(*TUMOR) == values_of(server)["tumor"]


def test_a_compressed_nrrd_holds_the_same_voxels(server: Server, tmp_path: Path) -> None:
    params = {"tumor": [list(TUMOR)], "result_extension": ".nrrd"}
    plain = server.infer(params, output="image")
    small = server.infer({**params, "result_compress": True}, output="image")
    assert len(small.content) < len(plain.content) / 10
    assert np.array_equal(small.mask, plain.mask)
    (tmp_path / "small.nrrd").write_bytes(small.content)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "small.nrrd"))).T, plain.mask)


def test_params_tell_what_is_in_the_mask(server: Server) -> None:
    reply = server.infer({"tumor": [list(TUMOR)], "liver": [list(LIVER)]})
    assert reply.mask is not None
    values = values_of(server)
    assert reply.params["label_names"] == {"liver": values["liver"], "tumor": values["tumor"]}
    for name, centroid in reply.params["centroids"].items():
        voxels = np.argwhere(reply.mask == values[name])
        assert centroid == pytest.approx(voxels.mean(axis=0).tolist(), abs=0.06)
    assert reply.params["n_clicks"] == 2
    assert reply.params["model_version"]
    for name, size in reply.params["measurements"].items():
        voxels = int((reply.mask == reply.params["label_names"][name]).sum())
        assert size["voxels"] == voxels
        assert size["volume_ml"] > 0
        assert size["axial_diameter_mm"] > 0
    assert {"open", "write", "total"} <= reply.params["latencies_ms"].keys()
    assert all(latency >= 0 for latency in reply.params["latencies_ms"].values())


def test_json_output_is_the_params_alone(server: Server) -> None:
    reply = server.infer({"tumor": [list(TUMOR)]}, output="json")
    assert list(reply.params["label_names"]) == ["tumor"]
    assert server.files_left() == []
