"""Who may be reached as a cluster, what proves who one is, and what is said where the engine is not installed."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography import x509

from lib.cluster import security
from lib.cluster.certificates import make_certificates
from lib.cluster.link import Link
from lib.cluster.security import Access, check_address
from lib.errors import SettingsError
from lib.settings import ClusterSettings, Settings

APP = Path(__file__).parents[2] / "apps" / "sam3d"


@pytest.mark.parametrize(
    "address", ["tls://gpu01.example:8786", "tls://10.0.0.7:1", "tcp://127.0.0.1:8786", "tcp://[::1]:8786"]
)
def test_addresses_that_are_safe(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("tcp://10.0.0.7:8786", "tcp:// asks nobody who they are"),
        ("tcp://localhost:8786", "tcp:// asks nobody who they are"),
        ("tcp://0.0.0.0:8786", "tcp:// asks nobody who they are"),
        ("tcp://[::]:8786", "tcp:// asks nobody who they are"),
        ("ray://host:10001", "the engine is Dask"),
        ("host:8786", "write tls://host:8786"),
        ("tls://host", "write tls://host:8786"),
        ("tls://host:99999", "write tls://host:8786"),
        ("ucx://host:1", "write tls://host:8786"),
        ("tls://user@host:1", "write tls://host:8786"),
    ],
)
def test_addresses_that_are_not(address: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        check_address(address)
    with pytest.raises(SettingsError, match=sentence):
        Link(Settings.from_conf({"cluster": address}).cluster)


def test_certificates_come_in_threes_and_with_tls_only(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca", "cert", "key")}
    for path in files.values():
        path.touch()
    assert Access("tls://host:1", **files).host == "host"
    for absent in files:
        with pytest.raises(SettingsError, match="needs cluster_ca, cluster_cert and cluster_key"):
            Access("tls://host:1", **{name: path for name, path in files.items() if name != absent})
    with pytest.raises(SettingsError, match="uses no certificates"):
        Access("tcp://127.0.0.1:1", **files)
    files["key"].unlink()
    with pytest.raises(SettingsError, match="no certificate file key"):
        Access("tls://host:1", **files)


def test_without_the_extra_the_setting_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="make setup CLUSTER=1"):
        Link(ClusterSettings(cluster="tcp://127.0.0.1:8786"))
    assert not Link(ClusterSettings()).is_set
    assert Link(ClusterSettings()).awaited(lambda: False) is None


@pytest.mark.parametrize("command", [["worker", "tcp://127.0.0.1:9"], ["scheduler"]])
def test_without_the_extra_the_commands_say_what_installs_it(command: list[str]) -> None:
    hidden = "import sys; sys.modules['distributed'] = None; import importlib.util as u; f = u.find_spec; "
    hidden += "u.find_spec = lambda name, *a: None if name == 'distributed' else f(name, *a); "
    code = hidden + f"sys.path.insert(0, {str(APP)!r}); import cli; sys.exit(cli.main({command!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "make setup CLUSTER=1" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_of_the_engine_is_imported_unless_it_is_asked_for(tmp_path: Path) -> None:
    """As the server loads the app, with all of its tasks."""
    (tmp_path / "studies").mkdir()
    given = str(APP), str(tmp_path / "studies"), {"model_folder": str(tmp_path / "model")}
    code = (
        f"import sys; sys.path.insert(0, {str(APP)!r}); import main\n"
        f"app = main.MyApp(*{given!r})\n"
        "print(sorted({'dask', 'distributed', 'tornado'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_authority_signs_for_machines_and_keeps_its_keys_to_itself(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        first = make_certificates(tmp_path / "pki", ["server", "gpu-01"], days=30)
        second = make_certificates(tmp_path / "pki", ["gpu-02"], days=30)
    finally:
        os.umask(old)
    authority = x509.load_pem_x509_certificate((tmp_path / "pki" / "ca.pem").read_bytes())
    for path in (*first, *second):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        left = certificate.not_valid_after_utc - datetime.now(timezone.utc)
        assert left.days == 29
        context = ssl.create_default_context(cafile=str(tmp_path / "pki" / "ca.pem"))
        context.load_cert_chain(path, path.with_name(f"{path.stem}-key.pem"))
    keys = sorted((tmp_path / "pki").glob("*-key.pem"))
    assert [path.name for path in keys] == ["ca-key.pem", "gpu-01-key.pem", "gpu-02-key.pem", "server-key.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    with pytest.raises(SettingsError, match=r"gpu-01\.pem exists"):
        make_certificates(tmp_path / "pki", ["gpu-03", "gpu-01"], days=30)
    assert not (tmp_path / "pki" / "gpu-03.pem").exists()
    for name in ("ca", "", "../x", ".x", "a b"):
        with pytest.raises(SettingsError, match="cannot be called"):
            make_certificates(tmp_path / "pki", [name], days=30)


def test_an_authority_without_its_key_signs_nothing(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["server"], days=30)
    (tmp_path / "ca-key.pem").write_bytes((tmp_path / "server-key.pem").read_bytes())
    with pytest.raises(SettingsError, match="is not the key of"):
        make_certificates(tmp_path, ["worker"], days=30)
    (tmp_path / "ca-key.pem").unlink()
    with pytest.raises(SettingsError, match="cannot be used"):
        make_certificates(tmp_path, ["worker"], days=30)


LAUNCHER = """#!/bin/sh
case "$1" in -c) exit 0;; esac
echo "$@" >>"{calls}"
"""


def test_a_set_up_installs_the_engine_when_it_is_asked_to_and_once(tmp_path: Path) -> None:
    """The script itself, in an environment whose interpreter writes down what it is told."""
    requirements, venv, calls = APP.parents[1] / "requirements", tmp_path / "venv", tmp_path / "calls"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(LAUNCHER.format(calls=calls))
    python.chmod(0o755)
    locks = "cat {torch,packages,source}.lock | sha256sum"
    digest = subprocess.run(["bash", "-c", locks], cwd=requirements, capture_output=True, text=True, check=True).stdout
    (venv / ".installed").write_text(f"cpu=0 {digest.strip()}\n")

    def told(**variables: str) -> list[str]:
        calls.unlink(missing_ok=True)
        environment = {"PATH": os.environ["PATH"], "VENV": str(venv), **variables}
        subprocess.run([str(requirements / "install.sh")], env=environment, check=True, capture_output=True)
        return calls.read_text().splitlines() if calls.exists() else []

    assert told() == []
    installed, checked = told(CLUSTER="1")
    assert installed.endswith(f"--no-deps --require-hashes --only-binary :all: -r {requirements / 'cluster.lock'}")
    assert checked.startswith("-m pip check")
    assert told(CLUSTER="1") == told() == []
