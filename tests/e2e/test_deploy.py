"""What deploy/ holds, as far as this machine can try it: nginx and Caddy with TLS before a server, and the unit."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.demo import free_port
from lib.settings import CONF_KEYS
from serving import APP, Server, write_study

pytestmark = pytest.mark.slow

DEPLOY = APP.parents[1] / "deploy"
NAME = "label.example.org"
SHAPE = (24, 22, 20)


def needs(program: str) -> str:
    path = shutil.which(program, path=f"/usr/sbin:/usr/bin:/bin:{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"{program} is not installed (Debian has it)")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    studies = tmp_path_factory.mktemp("studies")
    write_study(studies / "case.nii.gz", np.random.default_rng(0).normal(40, 20, SHAPE).astype(np.int16))
    conf = {"labels": "lesion", "score_share": "0", "max_upload_mib": "8"}
    if "allowed_hosts" in CONF_KEYS:
        conf["allowed_hosts"] = NAME
    with Server(tmp_path_factory.mktemp("server"), studies, conf) as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = [needs("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    files = ["-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{NAME}", *files], check=True, capture_output=True)
    return folder


@contextmanager
def running(command: list[str], port: int, certificate: Path, folder: Path) -> Iterator[None]:
    with (folder / "proxy.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            limit = time.monotonic() + 60
            while curl(port, certificate, "/info/").returncode:
                assert process.poll() is None, (folder / "proxy.log").read_text()
                assert time.monotonic() < limit
                time.sleep(0.3)
            yield
        finally:
            process.terminate()


def curl(port: int, certificate: Path, path: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """By TLS, with the certificate checked, to the name that the proxy serves."""
    known = ["--resolve", f"{NAME}:{port}:127.0.0.1", "--cacert", str(certificate / "fullchain.pem"), "--noproxy", "*"]
    command = [needs("curl"), "--silent", "--show-error", "--max-time", "120", *known, *options]
    return subprocess.run([*command, f"https://{NAME}:{port}{path}"], capture_output=True, check=False)


def changed(text: str, server: Server, port: int, certificate: Path) -> str:
    """A file of deploy/ with the lines changed that its user changes, and ports that are free."""
    text = text.replace("/etc/ssl/sam3d", str(certificate)).replace("1024m;", "1m;").replace("1024MB", "1MB")
    text, upstreams = re.subn(r"127\.0\.0\.1:8000(?! only)", server.url.removeprefix("http://"), text)
    assert upstreams == 1
    return text.replace("listen 443", f"listen 127.0.0.1:{port}").replace(f"\n{NAME} {{", f"\n{NAME}:{port} {{")


def check(server: Server, port: int, certificate: Path, tmp_path: Path) -> None:
    """Reads, clicks and stores by TLS; too much is refused by the proxy."""
    info = curl(port, certificate, "/info/", "--dump-header", str(tmp_path / "headers"))
    assert json.loads(info.stdout)["name"] == "sam3d"
    headers = (tmp_path / "headers").read_text().lower()
    assert "strict-transport-security: max-age=31536000" in headers
    assert not re.search(r"server: .*(nginx/|caddy)", headers)
    params = json.dumps({"lesion": [[9, 9, 9]], "result_extension": ".nrrd"})
    click = curl(port, certificate, "/infer/sam3d?image=case&output=image", "--form-string", f"params={params}")
    assert click.stdout.startswith(b"NRRD"), click.stdout[:300]
    label = tmp_path / "label.nii.gz"
    write_study(label, np.ones(SHAPE, np.uint8))
    stored = curl(
        *(port, certificate, "/datastore/label?image=case&tag=final", "-X", "PUT"),
        *("-F", f"label=@{label}", "--form-string", 'params={"label_info": [{"name": "lesion"}]}'),
    )
    assert json.loads(stored.stdout)["image"] == "case", stored.stdout
    back = curl(port, certificate, "/datastore/label?label=case&tag=final")
    assert np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(back.stdout)).dataobj).all()
    (tmp_path / "large").write_bytes(bytes(2 * 2**20))
    status = ("--write-out", "%{http_code}", "--output", str(tmp_path / "answer"))
    large = curl(port, certificate, "/infer/sam3d?image=case", "-F", f"file=@{tmp_path / 'large'}", *status)
    # Caddy 2.6 ends the stream instead of answering.
    assert large.stdout.endswith(b"413") or b"Stream error" in large.stderr, large
    plain = subprocess.run(
        [needs("curl"), "--silent", "--noproxy", "*", "--max-time", "20", f"http://127.0.0.1:{port}/info/"],
        capture_output=True,
        check=False,
    )
    assert b"sam3d" not in plain.stdout, "nothing is served without TLS"


def test_nginx(server: Server, certificate: Path, tmp_path: Path) -> None:
    nginx, port = needs("nginx"), free_port(0)
    site = changed((DEPLOY / "nginx.conf").read_text(), server, port, certificate)
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "site.conf").write_text(site)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; user root; pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} include {tmp_path}/site.conf; }}\n"
    )
    with running([nginx, "-c", str(tmp_path / "nginx.conf")], port, certificate, tmp_path):
        check(server, port, certificate, tmp_path)


def test_caddy(server: Server, certificate: Path, tmp_path: Path) -> None:
    caddy, port = needs("caddy"), free_port(0)
    text = changed((DEPLOY / "Caddyfile").read_text(), server, port, certificate)
    # The port for redirects from HTTP, which only root may use.
    text = text.replace("\tadmin off\n", f"\tadmin off\n\thttp_port {free_port(port + 1)}\n")
    (tmp_path / "Caddyfile").write_text(text)
    command = [caddy, "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, port, certificate, tmp_path):
        check(server, port, certificate, tmp_path)


def test_the_unit_is_sound_and_shut_in(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    unit = (DEPLOY / "sam3d.service").read_text().replace("/opt/sam3d/.venv/bin/python", "/usr/bin/true")
    (tmp_path / "sam3d.service").write_text(unit.replace("file:///opt/sam3d/docs/admin.md", "man:systemd(1)"))
    said = subprocess.run([analyze, "verify", tmp_path / "sam3d.service"], capture_output=True, text=True, check=False)
    assert (said.returncode, "sam3d.service" in said.stderr) == (0, False), said.stderr
    shut = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=25", tmp_path / "sam3d.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shut.returncode == 0, shut.stdout[-300:]
    assert "User=sam3d" in unit
    assert "ProtectSystem=strict" in unit
