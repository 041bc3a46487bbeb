"""A private certificate authority for one cluster, and certificates for its machines: whoever has one belongs to it."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lib.errors import SettingsError

AUTHORITY = "ca"
# Clocks of machines differ.
EARLIER = timedelta(hours=1)


def make_certificates(folder: Path, names: list[str], days: int) -> list[Path]:
    """Write `NAME.pem` and `NAME-key.pem` for each name, signed by the authority of the folder, which is made if there
    is none; the paths of the certificates. SettingsError where one of the names has one already."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not name or name == AUTHORITY or not all(sign.isalnum() or sign in "-_." for sign in name) or name[0] == ".":
            raise SettingsError(f"a machine cannot be called {name[:60]!r}: use letters, digits, dots and dashes")
        if certificate_file(folder, name).exists():
            raise SettingsError(f"{certificate_file(folder, name)} exists: remove it, or choose another name or folder")
    key, certificate = _authority(folder, days)
    for name in names:
        own = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, days, own.public_key(), certificate.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        # The key first: a certificate is never there without it.
        _write_key(key_file(folder, name), own)
        _write(certificate_file(folder, name), builder.sign(key, hashes.SHA256()).public_bytes(PEM), 0o644)
    return [certificate_file(folder, name) for name in names]


def certificate_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.pem"


def key_file(folder: Path, name: str) -> Path:
    return folder / f"{name}-key.pem"


PEM = serialization.Encoding.PEM


def _authority(folder: Path, days: int) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    paths = key_file(folder, AUTHORITY), certificate_file(folder, AUTHORITY)
    if any(path.exists() for path in paths):
        try:
            key = serialization.load_pem_private_key(paths[0].read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(paths[1].read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(f"the authority in {folder} cannot be used ({error}): name a new folder") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise SettingsError(f"{paths[0].name} in {folder} is not the key of {paths[1].name}: name a new folder")
        return key, certificate
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("sam3d cluster", days, key.public_key(), _name("sam3d cluster"))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    _write_key(paths[0], key)
    _write(paths[1], certificate.public_bytes(PEM), 0o644)
    return key, certificate


def _builder(name: str, days: int, key: ec.EllipticCurvePublicKey, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    form, open_key = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write(path, key.private_bytes(PEM, form, open_key), 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    """A file that was not there; nobody else may ever read a key, not even while it is written."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
