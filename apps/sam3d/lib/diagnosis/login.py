"""Who may use the server: nobody but this machine, whoever has the token, or the users of an OpenID provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import requests
from monailabel.config import settings as server_settings

from lib.access_tokens import read_token
from lib.diagnosis.findings import Finding, good, note, wrong
from lib.errors import SettingsError

TIMEOUT_S = 10.0
NEW_TOKEN = "make one: (umask 077; openssl rand -hex 32 > FILE)"
PROVIDER = "/.well-known/openid-configuration"


def login(conf: Mapping[str, str]) -> Iterator[Finding]:
    """By what the server would be told: its --conf, and MONAI Label's settings in the environment."""
    token_file = conf.get("access_token_file")
    if token_file:
        yield from _secret("access_token_file", Path(token_file).expanduser(), NEW_TOKEN)
    secret_file = conf.get("openid_secret_file")
    if secret_file:
        yield from _secret("openid_secret_file", Path(secret_file).expanduser(), "write the provider's secret into it")
    if server_settings.MONAI_LABEL_AUTH_ENABLE:
        yield from _provider(server_settings.MONAI_LABEL_AUTH_REALM_URI)
    elif not token_file:
        if conf.get("allow_anonymous", "").lower() == "true":
            sentence = (
                "none, and allow_anonymous is true: whoever reaches this machine reads patients and stores labels"
            )
            yield note("login", sentence, "do so in a closed network only, or name an access_token_file")
        else:
            yield note(
                "login", "none: the server answers this machine only", "docs/admin.md says how others may use it"
            )


def _secret(key: str, path: Path, mend: str) -> Iterator[Finding]:
    try:
        read_token(key, path)
    except SettingsError as error:
        yield wrong("login", str(error), mend)
        return
    mode = path.stat().st_mode
    if mode & 0o077:
        yield wrong("login", f"{key} {path} can be read by others (mode {mode & 0o777:o})", f"chmod 600 {path}")
    else:
        yield good("login", f"by {key} {path}")


def _provider(realm: str) -> Iterator[Finding]:
    """What the provider says of itself, and its keys."""
    mend = "mend MONAI_LABEL_AUTH_REALM_URI, or start the provider"
    try:
        said = requests.get(f"{realm.rstrip('/')}{PROVIDER}", timeout=TIMEOUT_S).json()
        keys = requests.get(said["jwks_uri"], timeout=TIMEOUT_S).json()["keys"]
    except requests.RequestException as error:
        yield wrong("login", f"the provider does not answer at {realm} ({type(error).__name__})", mend)
    except (ValueError, TypeError, KeyError) as error:
        yield wrong("login", f"what answers at {realm} is no OpenID provider ({type(error).__name__})", mend)
    else:
        if said.get("issuer") != realm.rstrip("/"):
            yield wrong("login", f"the provider at {realm} calls itself {said.get('issuer')}", mend)
        elif not keys:
            yield wrong("login", f"the provider at {realm} has no keys", "let it make a signing key")
        else:
            yield good("login", f"by the OpenID provider {realm}, with {len(keys)} keys")
