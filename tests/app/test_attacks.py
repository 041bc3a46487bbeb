"""What a server must not let a client do: each attack is made on a running server, and each left something behind once.

In this order: archives and paths, ids and tags, JSON that is kept and errors, bounds, what is closed, what lies about.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from archives import DemoArchive
from lib.demo import free_port
from lib.images.dicom_writing import SeriesInfo, write_series
from serving import Server, make_case, write_study
from test_bad_input import open_session
from test_bad_input import write_series as write_ct

pytestmark = pytest.mark.app

ARRAY = np.random.default_rng(0).integers(0, 90, (20, 18, 10)).astype(np.int16)
UID = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture(scope="module")
def folder_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "studies").mkdir()
    write_study(folder / "studies" / "case.nii.gz", *make_case())
    write_study(folder / "studies" / "other.nii.gz", ARRAY + 3)
    conf = {"max_upload_mib": "8", "model_folder": str(folder / "model"), "volume_cache_mib": "64"}
    with Server(folder / "server", folder / "studies", conf) as running:
        yield running


@pytest.fixture(scope="module")
def archive_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked_archive")
    write_series(
        folder / "files", ARRAY, np.diag([-2.0, -2.0, 3.0, 1.0]), SeriesInfo("P-1", "Doe^Jane"), list(range(10))
    )
    conf = {"max_upload_mib": "8", "model_folder": str(folder / "model")}
    with (
        DemoArchive(folder / "files", free_port(0)) as archive,
        Server(folder / "server", archive.url, conf) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def dicom_folder_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked_dicom")
    write_series(
        folder / "studies" / "a", ARRAY, np.diag([-2.0, -2.0, 3.0, 1.0]), SeriesInfo("P-1", "Doe^Jane"), list(range(10))
    )
    conf = {"max_upload_mib": "8", "model_folder": str(folder / "model")}
    before = tree(folder / "studies")
    with Server(folder / "server", folder / "studies", conf) as running:
        yield running
    assert {path for path in tree(folder / "studies") - before if not path.startswith((".", "label"))} == set()


@pytest.fixture(params=["folder", "archive", "dicom_folder"])
def attacked(request: pytest.FixtureRequest) -> Server:
    """The server of a folder, that of an archive, then that of a folder of DICOM files."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    return server


def image_bytes(tmp_path: Path, array: np.ndarray = ARRAY, name: str = "sent.nii.gz") -> bytes:
    write_study(tmp_path / name, array)
    return (tmp_path / name).read_bytes()


def ask(server: Server, method: str, path: str, **options: Any) -> requests.Response:
    return server.http.request(method, f"{server.url}{path}", timeout=120, **options)


def check(server: Server, reply: requests.Response, *statuses: int) -> str:
    """A sentence, no path of the server's in it, nothing left behind, and the next request answered."""
    assert reply.status_code in statuses, f"{reply.status_code}: {reply.text[:300]}"
    detail = reply.json()["detail"] if reply.content else ""
    assert isinstance(detail, str)
    assert "Traceback" not in detail
    assert str(server.folder) not in detail
    assert server.files_left() == []
    assert ask(server, "GET", "/datastore/?output=all").status_code == 200
    return detail


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --------------------------------------------------------------------------------------------- archives and paths


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(files: dict[str, bytes], link: tuple[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link[0])
            entry.type, entry.linkname = tarfile.SYMTYPE, link[1]
            archive.addfile(entry)
    return packed.getvalue()


@pytest.mark.parametrize("query", ["?uncompress=true", ""])
@pytest.mark.parametrize("kind", ["dots", "absolute", "link", "meta", "zip"])
def test_no_archive_writes_or_names_a_file(attacked: Server, tmp_path: Path, kind: str, query: str) -> None:
    secret, target = tmp_path / "secret", tmp_path / "overwritten"
    secret.write_bytes(b"of the hospital")
    dots = "../" * 20 + str(target).lstrip("/")
    meta = json.dumps({"name": "x", "path": "/", "image": str(secret), "expiry": 9999}).encode()
    packed = {
        "dots": ("a.tar.gz", tarred({dots: b"evil"})),
        "absolute": ("a.tar", tarred({str(target): b"evil"})),
        "link": ("a.tar.gz", tarred({"x/y": b"evil"}, ("image", str(secret)))),
        "meta": ("a.tar.gz", tarred({"meta.info": meta})),
        "zip": ("a.zip", zipped({"meta.info": meta, dots: b"evil"})),
    }[kind]
    reply = ask(attacked, "PUT", f"/session/{query}", files={"files": packed})
    check(attacked, reply, 422)
    assert not target.exists()


def test_a_file_named_as_a_session_s_own_does_not_become_it(attacked: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"of the hospital")
    meta = json.dumps({"name": "x", "path": "/", "image": str(secret), "expiry": 9999}).encode()
    check(attacked, ask(attacked, "PUT", "/session/", files={"files": ("meta.info", meta)}), 422)
    two = [("files", ("meta.info", meta)), ("files", ("image.nii.gz", image_bytes(tmp_path)))]
    check(attacked, ask(attacked, "PUT", "/session/", files=two), 422)
    # One that lies there already, as an older server left it.
    session_id = str(uuid.uuid4())
    place = attacked.folder / "home" / ".cache" / "monailabel" / "sessions" / session_id
    place.mkdir(parents=True)
    (place / "meta.info").write_bytes(meta)
    for query in ("", "?image=true"):
        reply = ask(attacked, "GET", f"/session/{session_id}{query}")
        assert b"hospital" not in reply.content
        check(attacked, reply, 404)
    assert attacked.infer({}, image="", query={"session_id": session_id}).status == 404


def test_a_session_holds_an_image_and_gives_it_back(attacked: Server, tmp_path: Path) -> None:
    content = image_bytes(tmp_path)
    for name in ("my image.nii.gz", "../../x.nii.gz", "/etc/x.nii.gz", ".hidden.nii.gz"):
        reply = ask(attacked, "PUT", "/session/?expiry=-7", files={"files": (name, content)})
        assert reply.status_code == 200, reply.text
        session = reply.json()["session_id"]
        assert uuid.UUID(session).version == 4
        assert ask(attacked, "GET", f"/session/{session}?image=true").content == content
        assert ask(attacked, "DELETE", f"/session/{session}").status_code == 200
        check(attacked, ask(attacked, "GET", f"/session/{session}"), 404)
    series = open_session(attacked, write_ct(tmp_path, missing=None))
    check(attacked, ask(attacked, "GET", f"/session/{series}?image=true"), 404)
    assert ask(attacked, "DELETE", f"/session/{series}").status_code == 200


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<script>"),
        ("x.py", b"import os"),
        ("noending", b"x"),
        ("x.nii.gz", b"no image"),
        ("x.nii.gz.exe", b"x"),
        ("x.zip", zipped({"a": b"b"})),
    ],
)
def test_a_session_takes_images_only(attacked: Server, name: str, content: bytes) -> None:
    check(attacked, ask(attacked, "PUT", "/session/", files={"files": (name, content)}), 422)


@pytest.mark.parametrize("name", ["x.html", "x.py", "x", "x.nii.gz.svg"])
def test_an_image_under_another_ending_is_no_session(attacked: Server, tmp_path: Path, name: str) -> None:
    """What a session gives back would be a page of this server's."""
    check(attacked, ask(attacked, "PUT", "/session/", files={"files": (name, image_bytes(tmp_path))}), 422)


UNKNOWN = "89cb4d51-f2b3-4ccf-9198-c0b8dd872f2f"


@pytest.mark.parametrize("session", ["..", "%2e%2e", "..%2f..%2fetc", "x", "a" * 5000, "%00", UNKNOWN])
def test_an_unknown_session_is_none(attacked: Server, session: str) -> None:
    for method in ("GET", "DELETE"):
        reply = attacked.http.send(raw(attacked, method, f"/session/{session}"), timeout=60)
        check(attacked, reply, 404, 405)


def raw(server: Server, method: str, path: str) -> requests.PreparedRequest:
    """A request whose path is sent as it is: requests would take the dots out."""
    prepared = requests.Request(method, server.url).prepare()
    prepared.url = f"{server.url}{path}"
    return prepared


# ---------------------------------------------------------------------------------------------------- ids and tags

ABSOLUTE = str(Path(tempfile.gettempdir()) / f"sam3d-{uuid.uuid4().hex}")
BAD_IDS = (
    "../x",
    "..",
    ".",
    ABSOLUTE,
    "a/b",
    "-rf",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\\b",
    "x" * 300,
    " x",
    "ü" * 120,
    "<b>",
)


@pytest.mark.parametrize("image", BAD_IDS, ids=range(len(BAD_IDS)))
@pytest.mark.parametrize("path", ["/datastore/image", "/datastore/"])
def test_no_image_is_stored_under_a_bad_id(folder_server: Server, tmp_path: Path, image: str, path: str) -> None:
    before, around = tree(folder_server.studies), tree(folder_server.folder)
    files = {"file": ("sent.nii.gz", image_bytes(tmp_path))}
    check(folder_server, ask(folder_server, "PUT", path, params={"image": image}, files=files), 422)
    assert tree(folder_server.studies) == before
    assert tree(folder_server.folder) - around <= {"server.log"}
    assert not Path(f"{ABSOLUTE}.nii.gz").exists()


@pytest.mark.parametrize(
    "name",
    ["x.html", "x.py", "noending", "x.nii.gz.html", "x.svg", "x.png", "../x.html", "..nii.gz", ".nii.gz", "-x.nii"],
)
def test_no_image_is_stored_by_a_bad_file_name(folder_server: Server, tmp_path: Path, name: str) -> None:
    before = tree(folder_server.studies)
    files = {"file": (name, image_bytes(tmp_path))}
    check(folder_server, ask(folder_server, "PUT", "/datastore/image", files=files), 422)
    assert tree(folder_server.studies) == before


def test_only_what_opens_as_a_volume_is_stored(folder_server: Server, tmp_path: Path) -> None:
    before = tree(folder_server.studies)
    bomb = image_bytes(tmp_path, np.zeros((400, 400, 400), np.uint8))  # 244 MiB once it is open
    assert len(bomb) < 2**20
    for content in (b"", b"no image", b"\x1f\x8b" + bytes(50), image_bytes(tmp_path)[:-200], bomb):
        files = {"file": ("sent.nii.gz", content)}
        check(folder_server, ask(folder_server, "PUT", "/datastore/image", params={"image": "new"}, files=files), 422)
        check(folder_server, ask(folder_server, "PUT", "/session/", files={"files": ("sent.nii.gz", content)}), 422)
    assert tree(folder_server.studies) == before


def test_an_image_is_replaced_only_if_asked_for_and_its_labels_do_not_follow(
    folder_server: Server, tmp_path: Path
) -> None:
    server, first, second = folder_server, image_bytes(tmp_path), image_bytes(tmp_path, ARRAY + 1)
    send = {"params": {"image": "mine"}}
    assert ask(server, "PUT", "/datastore/image", files={"file": ("a.nii.gz", first)}, **send).json() == {
        "image": "mine"
    }
    label = {"label": ("label.bin", np.ones(ARRAY.shape, np.uint8).tobytes())}
    params = {"params": (None, json.dumps({"label_info": [{"name": "lesion"}]}))}
    assert ask(server, "PUT", "/datastore/label", files={**label, **params}, **send).status_code == 200
    refused = ask(server, "PUT", "/datastore/image", files={"file": ("a.nii", second)}, **send)
    assert "already" in check(server, refused, 409)
    assert ask(server, "GET", "/datastore/image", **send).content == first
    plain = image_bytes(tmp_path, ARRAY + 1, "plain.nii")
    send["params"]["replace"] = "true"
    assert ask(server, "PUT", "/datastore/image", files={"file": ("a.nii", plain)}, **send).status_code == 200
    assert ask(server, "GET", "/datastore/image", **send).content == plain
    check(server, ask(server, "GET", "/datastore/label", params={"label": "mine", "tag": "final"}), 404)
    time.sleep(2.5)  # the folder has been looked at again
    check(server, ask(server, "GET", "/datastore/label", params={"label": "mine", "tag": "final"}), 404)
    assert sorted(path.name for path in server.studies.glob("mine*")) == ["mine.nii"]
    assert ask(server, "DELETE", "/datastore/image", params={"id": "mine"}).status_code == 200
    assert sorted(path.name for path in server.studies.glob("mine*")) == []


@pytest.mark.parametrize("image", ["../outside", "/etc/hostname", "..", "nobody", "", "a\0b", "x" * 5000])
def test_what_is_not_there_is_a_404(attacked: Server, image: str) -> None:
    outside = attacked.folder / "outside.nii.gz"
    outside.write_bytes(b"of somebody else")
    for method, path, params in (
        ("DELETE", "/datastore/image", {"id": image}),
        ("GET", "/datastore/image", {"image": image}),
        ("HEAD", "/datastore/image", {"image": image}),
        ("GET", "/datastore/image/info", {"image": image}),
        ("PUT", "/datastore/image/info", {"image": image}),
        ("GET", "/datastore/label", {"label": image, "tag": "final"}),
        ("HEAD", "/datastore/label", {"image": image, "tag": "final"}),
        ("GET", "/datastore/label/info", {"label": image, "tag": "final"}),
        ("PUT", "/datastore/label/info", {"label": image, "tag": "final"}),
        ("DELETE", "/datastore/label", {"id": image, "tag": "final"}),
    ):
        files = {"info": (None, "{}")} if method == "PUT" else None
        reply = ask(attacked, method, path, params=params, files=files)
        assert reply.status_code == 404, f"{method} {path}: {reply.status_code} {reply.text[:200]}"
    assert outside.exists()
    check(attacked, reply, 404)


@pytest.mark.parametrize("tag", ["..", "../../elsewhere", "/tmp", ".hidden", "a b", "x" * 100, "-rf", "a\0"])
def test_a_bad_tag_is_refused(folder_server: Server, tag: str) -> None:
    server, before = folder_server, tree(folder_server.studies)
    files = {"label": ("label.bin", np.ones(ARRAY.shape, np.uint8).tobytes())}
    check(server, ask(server, "PUT", "/datastore/label", params={"image": "other", "tag": tag}, files=files), 422)
    check(server, ask(server, "GET", "/datastore/label", params={"label": "other", "tag": tag}), 422)
    check(server, ask(server, "DELETE", "/datastore/label", params={"id": "other", "tag": tag}), 422)
    check(server, ask(server, "POST", "/batch/infer/sam3d", json={"label_tag": tag}), 422)
    assert tree(server.studies) == before


def test_what_is_read_back_from_the_list_is_checked_as_well(tmp_path: Path) -> None:
    """A list that somebody, or an older server, left beside the images: nothing of it leads out of the folder."""
    studies, secret = tmp_path / "studies", tmp_path / "secret.nii.gz"
    (studies / "labels" / "final").mkdir(parents=True)
    write_study(studies / "case.nii.gz", ARRAY)
    write_study(studies / ".hidden.nii.gz", ARRAY)
    write_study(secret, ARRAY)
    one = {"image": {"ext": ".nii.gz", "info": {"x": float("nan"), "y": [float("inf"), 1]}}, "labels": {}}
    out = {"image": {"ext": "/../../secret.nii.gz", "info": {}}, "labels": {}}
    tag = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {"../..": {"ext": ".nii.gz", "info": {}}}}
    objects = {"case": {**one, "labels": tag["labels"]}, "../secret": tag, ".": out, "labels": out}
    listed = {"name": "n", "description": "d", "images_dir": ".", "labels_dir": "labels", "objects": objects}
    (studies / "datastore_v2.json").write_text(json.dumps(listed))
    with Server(tmp_path / "server", studies) as server:
        shown = ask(server, "GET", "/datastore/?output=all").json()["objects"]
        assert shown.keys() == {"case"}
        assert shown["case"]["image"]["info"].keys() == {"ts", "name"}  # of the file that is there
        assert shown["case"]["labels"] == {}
        for image in ("../secret", ".", "labels", ".hidden"):
            check(server, ask(server, "GET", "/datastore/image", params={"image": image}), 404)
            assert server.infer({}, image=image).status == 404
            check(server, ask(server, "DELETE", "/datastore/image", params={"id": image}), 404)
    assert secret.exists()


# ------------------------------------------------------------------------------------- JSON that is kept, and errors

BAD_JSON = ('{"x": NaN}', '{"x": -Infinity}', '{"x": 1e999}', "not json", "7", "[7]", "null", '{"x": ' + "[" * 3000)
DEEP = '{"x": ' + "[" * 100 + "]" * 100 + "}"


@pytest.mark.parametrize("text", [*BAD_JSON, DEEP], ids=str)
def test_bad_json_is_neither_kept_nor_a_failure(folder_server: Server, tmp_path: Path, text: str) -> None:
    server = folder_server
    field = {"info": (None, text)}
    label = {"label": ("label.bin", np.ones(ARRAY.shape, np.uint8).tobytes()), "params": (None, text)}
    image = {"file": ("sent.nii.gz", image_bytes(tmp_path)), "params": (None, text)}
    check(server, ask(server, "PUT", "/datastore/image/info", params={"image": "other"}, files=field), 422)
    check(server, ask(server, "PUT", "/datastore/label", params={"image": "other"}, files=label), 422)
    check(server, ask(server, "PUT", "/datastore/image", params={"image": "new"}, files=image), 422)
    for path in ("/train/", "/train/sam3d", "/batch/infer/sam3d", "/activelearning/random", "/scoring/"):
        if text == "null":
            continue  # a body of null is none at all
        headers = {"Content-Type": "application/json"}
        check(server, ask(server, "POST", path, data=text, headers=headers), 422)
    assert ask(server, "GET", "/datastore/label", params={"label": "other", "tag": "final"}).status_code == 404


def test_an_info_that_is_json_is_kept(folder_server: Server) -> None:
    field = {"info": (None, json.dumps({"note": "größer", "x": [1, None]}))}
    assert ask(folder_server, "PUT", "/datastore/image/info", params={"image": "other"}, files=field).status_code == 200
    info = ask(folder_server, "GET", "/datastore/image/info", params={"image": "other"}).json()
    assert (info["note"], info["x"]) == ("größer", [1, None])


@pytest.mark.parametrize("path", ["/train/nope", "/batch/infer/nope", "/scoring/nope", "/activelearning/nope"])
def test_what_is_asked_of_nothing_is_a_404(attacked: Server, path: str) -> None:
    for query in ("", "?run_sync=true"):
        check(attacked, ask(attacked, "POST", f"{path}{query}", json={}), 404)
    assert ask(attacked, "GET", "/train/?check_if_running=true").status_code == 404


def test_a_query_of_the_wrong_kind_is_one_sentence(attacked: Server) -> None:
    for method, path in (
        ("GET", "/datastore/?output=everything"),
        ("GET", "/datastore/image"),
        ("GET", "/datastore/dataset?limit_cases=NaN"),
        ("POST", "/batch/infer/sam3d?images=NaN"),
        ("GET", "/train/?all=NaN"),
        ("GET", "/logs/?lines=NaN"),
        ("PUT", "/datastore/label?image=case"),
        ("PUT", "/session/"),
    ):
        check(attacked, ask(attacked, method, path), 422)
    assert ask(attacked, "HEAD", "/datastore/image?image=case&check_sum=x").status_code in (404, 422)


def test_no_dataset_is_made_of_nothing_and_none_is_left_behind(folder_server: Server, tmp_path: Path) -> None:
    server = folder_server
    check(server, ask(server, "GET", "/datastore/dataset"), 404)
    label = {"label": ("label.bin", np.ones(ARRAY.shape, np.uint8).tobytes())}
    assert ask(server, "PUT", "/datastore/label", params={"image": "other"}, files=label).status_code == 200
    reply = ask(server, "GET", "/datastore/dataset")
    assert set(zipfile.ZipFile(io.BytesIO(reply.content)).namelist()) >= {"image/other.nii.gz", "metadata.json"}
    assert ask(server, "DELETE", "/datastore/label", params={"id": "other", "tag": "final"}).status_code == 200
    assert server.files_left() == []


@pytest.mark.parametrize("kind", ["archive", "dicom_folder"])
def test_an_archive_s_images_are_not_touched_from_here(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server: Server = request.getfixturevalue(f"{kind}_server")
    files = {"file": ("sent.nii.gz", image_bytes(tmp_path))}
    for image in ("new", "1.2.3"):
        check(server, ask(server, "PUT", "/datastore/image", params={"image": image}, files=files), 409)
    (image,) = ask(server, "GET", "/proxy/dicom/qido/series").json()
    uid = image["0020000E"]["Value"][0]
    assert ask(server, "GET", "/datastore/image", params={"image": uid}).status_code == 200
    check(server, ask(server, "DELETE", "/datastore/image", params={"id": uid}), 409)
    check(server, ask(server, "GET", "/datastore/image", params={"image": "1.2.3.4"}), 404)


# --------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/session/"),
        ("PUT", "/datastore/image?image=new"),
        ("PUT", "/datastore/label?image=other"),
        ("PUT", "/datastore/image/info?image=other"),
        ("POST", "/infer/sam3d?image=case"),
        ("POST", "/train/"),
        ("POST", "/activelearning/random"),
        ("DELETE", "/datastore/image?id=nobody"),
        ("GET", "/info/"),
    ],
)
def test_every_body_has_a_limit(attacked: Server, method: str, path: str) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\n'
    is_form = method in ("PUT",) or path.startswith("/infer")
    headers = {"Content-Type": "multipart/form-data; boundary=b" if is_form else "application/json"}
    whole = (head if is_form else b'{"a": "') + b"x" * (9 * 2**20)
    check(attacked, ask(attacked, method, path, data=whole, headers=headers), 413)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(whole), 2**16):
            yield whole[start : start + 2**16]

    try:
        reply = ask(attacked, method, path, data=chunks(), headers=headers)
    except requests.ConnectionError:
        return  # it hung up on a client that did not listen
    # A route that reads no body answers without it.
    check(attacked, reply, *((413,) if method in ("PUT", "POST") else (413, 404))) if not reply.ok else None


@pytest.mark.parametrize("name", ["label.html", "label", "label.py", "../label.bin.exe", "label.nii.gz"])
def test_a_refused_label_leaves_no_file(folder_server: Server, name: str) -> None:
    """The one with a good ending is no label."""
    files = {"label": (name, b"no label")}
    check(folder_server, ask(folder_server, "PUT", "/datastore/label", params={"image": "other"}, files=files), 422)
    check(
        folder_server, ask(folder_server, "PUT", "/datastore/label", params={"image": "nobody"}, files=files), 404, 422
    )


def test_a_label_far_larger_than_its_image_is_not_unpacked(folder_server: Server, tmp_path: Path) -> None:
    bomb = image_bytes(tmp_path, np.zeros((640, 640, 640), np.uint8))
    files = {"label": ("label.nii.gz", bomb)}
    before = peak_memory(folder_server)
    reply = ask(folder_server, "PUT", "/datastore/label", params={"image": "other"}, files=files)
    check(folder_server, reply, 422)
    assert peak_memory(folder_server) - before < 100 * 2**20


def peak_memory(server: Server) -> int:
    """Bytes that the server has ever held at once."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


# ------------------------------------------------------------------------------------------------ what is closed

CLOSED = (
    ("POST", "/reload"),
    ("PUT", "/model/sam3d"),
    ("GET", "/model/sam3d"),
    ("DELETE", "/model/sam3d"),
    ("GET", "/model/info/sam3d"),
    ("POST", "/infer/wsi/sam3d"),
    ("POST", "/infer/wsi_v2/sam3d"),
    ("DELETE", "/datastore/?id=case"),
    ("PUT", "/datastore/updatelabelinfo?label=case&tag=final"),
    ("GET", "/logs/gpu"),
    ("GET", "/docs"),
    ("GET", "/static/ohif/index.html"),
    ("GET", "/nothing"),
    ("TRACE", "/info/"),
    ("PATCH", "/info/"),
    ("OPTIONS", "/info/"),
    ("GET", "//info/"),
)


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_is_not_served_is_closed(attacked: Server, method: str, path: str) -> None:
    reply = attacked.http.send(raw(attacked, method, path), timeout=60)
    check(attacked, reply, 404, 405)
    assert (attacked.conf["model_folder"] in reply.text) is False


def test_the_schema_tells_of_what_is_served_and_of_nothing_else(attacked: Server) -> None:
    paths = ask(attacked, "GET", "/openapi.json").json()["paths"]
    assert "/infer/{model}" in paths
    assert not [path for path in paths if path.startswith(("/model", "/infer/wsi", "/reload"))]


@pytest.mark.parametrize(
    "path", ["..", "%2e%2e", "assets", "..%2f..%2fohif.py", "../../ohif.py", "%2fetc%2fhostname", "x.js"]
)
def test_the_viewer_s_folder_is_not_left(attacked: Server, path: str) -> None:
    reply = attacked.http.send(raw(attacked, "GET", f"/ohif/{path}"), timeout=60)
    assert reply.status_code in (200, 404), reply.text[:200]
    assert "import" not in reply.text[:2000] or "<!doctype html>" in reply.text[:200]
    page = ask(attacked, "GET", "/ohif/viewer?StudyInstanceUIDs=1.2")
    assert (page.status_code, "OHIF" in page.text[:2000]) == (200, True)


@pytest.mark.parametrize("path", ["/", "/logs/", "/info/", "/ohif/", "/datastore/?output=all", "/nothing"])
def test_no_page_loads_anything_from_elsewhere(attacked: Server, path: str) -> None:
    reply = ask(attacked, "GET", path)
    assert "https://" not in reply.text.replace("https://www.w3.org", "") or path not in ("/", "/logs/")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "SAMEORIGIN"
    policy = reply.headers["content-security-policy"]
    assert "frame-ancestors" in policy
    assert "http" not in policy
    assert ("sandbox" in policy) == (path not in ("/", "/ohif/"))
    assert path == "/ohif/" or reply.headers["cache-control"] == "no-store"
    if path == "/logs/":
        assert reply.headers["content-type"].startswith("text/plain")


def test_a_start_leaves_no_file(attacked: Server) -> None:
    left = [path.name for path in attacked.temporary.glob("tmp*")]
    assert left == []


def test_nothing_failed_meanwhile(attacked: Server) -> None:
    """The last of them: no traceback of any attack is in the log."""
    assert "Traceback" not in attacked.log.read_text(errors="replace")
