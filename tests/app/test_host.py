"""One test for each fact about MONAI Label 0.8.5 that the app is built on: read again whenever its version changes."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException

from lib.settings import HOST_KEYS, HOST_PREFIXES
from serving import TUMOR, Server

pytestmark = pytest.mark.app

APP_SOURCE = """
import sys
from pathlib import Path
from monailabel.interfaces.app import MONAILabelApp
from lib.part import VALUE

class {name}({base}):
    path_while_loading = list(sys.path)
    value = VALUE
"""


@pytest.fixture(scope="module")
def class_utils() -> ModuleType:
    """MONAI Label's loader of apps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its many imports warn: let them do so here
        import monailabel.app  # noqa: F401
        from monailabel.utils.others import class_utils as loader
    return loader


@pytest.fixture
def kept_lib() -> Iterator[None]:
    """Puts the modules named lib back, which loading an app replaces."""
    kept = {name: module for name, module in sys.modules.items() if is_lib(name)}
    yield
    for name in [name for name in sys.modules if is_lib(name)]:
        del sys.modules[name]
    sys.modules.update(kept)


def is_lib(name: str) -> bool:
    return name == "lib" or name.startswith("lib.")


def load(class_utils: ModuleType, folder: Path, name: str, base: str = "MONAILabelApp", more: str = "") -> Any:
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    (folder / "lib" / "__init__.py").touch()
    (folder / "lib" / "part.py").write_text(f"VALUE = {str(folder)!r}\n")
    (folder / "main.py").write_text(APP_SOURCE.format(name=name, base=base) + more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return class_utils.get_class_of_subclass_from_file("main", str(folder / "main.py"), "MONAILabelApp")


@pytest.mark.usefixtures("kept_lib")
def test_the_app_is_found_by_the_name_of_its_direct_base(class_utils: ModuleType, tmp_path: Path) -> None:
    assert load(class_utils, tmp_path / "a", "Direct").__name__ == "Direct"
    between = load(class_utils, tmp_path / "b", "Between", more="\nclass Mine(Between):\n    pass\n")
    assert between.__name__ == "Between"


@pytest.mark.usefixtures("kept_lib")
def test_the_app_folder_leaves_sys_path_once_main_has_run(class_utils: ModuleType, tmp_path: Path) -> None:
    loaded = load(class_utils, tmp_path, "Paths")
    assert str(tmp_path) in loaded.path_while_loading
    assert str(tmp_path) not in sys.path


@pytest.mark.usefixtures("kept_lib")
def test_loading_an_app_replaces_every_module_named_lib(class_utils: ModuleType, tmp_path: Path) -> None:
    first = load(class_utils, tmp_path / "a", "First")
    second = load(class_utils, tmp_path / "b", "Second")
    assert (first.value, second.value) == (str(tmp_path / "a"), str(tmp_path / "b"))


def test_we_know_every_conf_key_that_the_package_reads() -> None:
    spec = importlib.util.find_spec("monailabel")
    assert spec is not None
    assert spec.origin is not None
    sources = [path.read_text(encoding="utf-8") for path in Path(spec.origin).parent.rglob("*.py")]
    keys = {key for source in sources for key in re.findall(r"\bconf\.get\(\s*[\"']([^\"']+)", source)}
    assert keys >= {"server_mode", "preload"}
    assert {key for key in keys if key not in HOST_KEYS and not key.startswith(HOST_PREFIXES)} == set()


def test_the_command_line_adds_no_conf_key_of_its_own(class_utils: ModuleType) -> None:
    from monailabel.main import Main

    source = inspect.getsource(Main.start_server_init_settings)
    assert "conf = {c[0]: c[1] for c in args.conf} if args.conf else {}" in source


def test_without_conf_the_app_gets_an_empty_mapping(cramped_server: Server) -> None:
    assert cramped_server.conf == {}
    assert cramped_server.info()["labels"] == ["lesion", "organ"]


def test_params_can_replace_image_and_model(server: Server) -> None:
    assert server.infer({"image": "case"}, image="nobody").status == 200
    reply = server.infer({"model": "sam4d"})
    assert (reply.status, "sam4d" in reply.detail) == (404, True)


def test_an_http_exception_keeps_its_status_and_detail(server: Server) -> None:
    assert server.infer({"tumor": "x"}).detail.startswith("clicks of")
    # The stock endpoint starts a process for it, whose failure is a bare 500: so no name is handed on that is none.
    unknown = server.http.post(f"{server.url}/train/nobody", params={"run_sync": "true"}, timeout=60)
    assert (unknown.status_code, "nobody" in unknown.json()["detail"]) == (404, True)
    assert server.infer({}).status == 200


def test_the_reply_is_deleted_after_it_was_sent(server: Server) -> None:
    for output in (None, "image", "json"):
        assert server.infer({"tumor": [list(TUMOR)]}, output=output).status == 200
    assert server.files_left() == []


def test_an_upload_is_named_as_we_expect(class_utils: ModuleType) -> None:
    from lib.infers.images import is_upload

    source = inspect.getsource(sys.modules["monailabel.endpoints.infer"])
    assert "tempfile.NamedTemporaryFile(suffix=file_ext).name" in source
    with tempfile.NamedTemporaryFile(suffix=".nii.gz") as upload:
        assert is_upload(upload.name)
    assert not is_upload(upload.name)
    assert not is_upload("/etc/hostname")
    assert not is_upload(None)


async def get(api: Any, path: str) -> None:
    """One GET request through an ASGI app, its answer dropped."""
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode()}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    await api(
        {**scope, "query_string": b"", "headers": [], "scheme": "http", "server": ("127.0.0.1", 80)}, receive, send
    )


def test_an_upload_is_not_deleted_by_the_server_after_a_refusal() -> None:
    """FastAPI runs the tasks behind an answer only where the endpoint returned one, so refusals must clean up."""
    ran: list[str] = []
    api = FastAPI()

    @api.get("/{name}")
    def endpoint(name: str, background_tasks: BackgroundTasks) -> str:
        background_tasks.add_task(ran.append, name)
        if name == "refused":
            raise HTTPException(404, "no")
        return name

    for name in ("refused", "answered"):
        asyncio.run(get(api, f"/{name}"))
    assert ran == ["answered"]


def test_a_first_dicom_series_comes_as_a_temporary_copy(class_utils: ModuleType, tmp_path: Path) -> None:
    """The second call names the datastore's own file; the copy is ours to delete."""
    from monailabel.datastore.dicom import DICOMWebDatastore

    from lib.infers.images import find_image

    source = inspect.getsource(DICOMWebDatastore.get_image_uri)
    assert "image_nii_gz = dicom_to_nifti(image_dir)" in source
    stored = tmp_path / "1.2.3.nii.gz"

    class Store(DICOMWebDatastore):
        def __init__(self) -> None:
            self.copies: list[Path] = []

        def list_images(self) -> list[str]:
            return []

        def get_image_uri(self, image_id: str) -> str:
            if image_id != "1.2.3":
                raise IndexError(image_id)
            if stored.exists():
                return str(stored)
            stored.touch()
            with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as copy:
                self.copies.append(Path(copy.name))
            return copy.name

    store = Store()
    assert find_image("1.2.3", store, []) == str(stored)
    assert [copy.exists() for copy in store.copies] == [False]
    for unknown in ("1.2.4", "..", "1.2.3/../x", "/etc/hostname"):
        with pytest.raises(Exception, match="404"):
            find_image(unknown, store, [])


def test_the_stock_app_would_download_a_tool_for_dicom_studies(class_utils: ModuleType) -> None:
    from monailabel.interfaces.app import MONAILabelApp

    assert "self._download_dcmqi_tools()" in inspect.getsource(MONAILabelApp._init_dicomweb_datastore)
    assert "github.com" in inspect.getsource(MONAILabelApp._download_dcmqi_tools)
    app = (Path(__file__).parents[2] / "apps" / "sam3d" / "main.py").read_text(encoding="utf-8")
    assert "def _download_dcmqi_tools(self)" in app


def test_the_stock_app_would_ask_itself_for_scores_before_it_listens(class_utils: ModuleType) -> None:
    from monailabel.config import settings
    from monailabel.interfaces.app import MONAILabelApp

    assert settings.MONAI_LABEL_AUTO_UPDATE_SCORING
    assert "self.async_scoring(None)" in inspect.getsource(MONAILabelApp.on_init_complete)
    assert "self._local_request(url, p, " in inspect.getsource(MONAILabelApp.async_scoring)
    app = (Path(__file__).parents[2] / "apps" / "sam3d" / "main.py").read_text(encoding="utf-8")
    assert "def async_scoring(self" in app


def test_the_stock_batch_task_divides_by_the_number_of_gpus(class_utils: ModuleType) -> None:
    from monailabel.interfaces.tasks.batch_infer import BatchInferTask

    assert "device_ids[idx % len(device_ids)]" in inspect.getsource(BatchInferTask.__call__)
