"""From the settings to who may ask this server, and what it says about that at its start."""

from __future__ import annotations

import logging

from monailabel.config import settings as server_settings

from lib.access_tokens import read_token
from lib.errors import SettingsError
from lib.serving.audit import AuditLog
from lib.serving.front_door import front_door
from lib.serving.heads import limit_heads
from lib.serving.logins import NoLogin, TokenLogin
from lib.serving.mounting import put_first, put_gate
from lib.serving.openid import OpenIdLogin
from lib.serving.openid_provider import OpenIdProvider
from lib.serving.origins import Frontier
from lib.serving.peers import record_peers, remove_log_configuration, running_server
from lib.settings import ServingSettings, Settings

logger = logging.getLogger(__name__)

AUDIT_FILE = "audit.jsonl"


def close_doors(settings: Settings) -> None:
    """Put the gate before all that the running server serves; SettingsError for a token that cannot be used."""
    serving = settings.serving
    login = _login(serving)
    config = running_server()
    if config is not None:
        record_peers(config)
        limit_heads(config)
        remove_log_configuration(config)
    frontier = Frontier(
        serving.allowed_hosts, serving.allowed_origins, is_open=login.is_asked_for or serving.allow_anonymous
    )
    put_first(front_door(login))
    gate = {
        "login": login,
        "audit": AuditLog(serving.audit_log or settings.model_folder / AUDIT_FILE),
        "upload_limit_bytes": serving.max_upload_mib * 2**20,
    }
    put_gate(frontier, gate, serving.allowed_origins)
    logger.warning("%s", _who_may_ask(login.is_asked_for, serving.allow_anonymous))


def _login(serving: ServingSettings) -> NoLogin | TokenLogin | OpenIdLogin:
    """How visitors are known; SettingsError for two ways at once."""
    if not server_settings.MONAI_LABEL_AUTH_ENABLE:
        if serving.openid_secret_file:
            raise SettingsError("openid_secret_file is set without MONAI_LABEL_AUTH_ENABLE, which names the provider")
        return (
            TokenLogin(read_token("access_token_file", serving.access_token_file))
            if serving.access_token_file
            else NoLogin()
        )
    if serving.access_token_file or serving.allow_anonymous:
        raise SettingsError("MONAI_LABEL_AUTH_ENABLE is set beside access_token_file or allow_anonymous: choose one")
    provider = OpenIdProvider(server_settings.MONAI_LABEL_AUTH_REALM_URI, server_settings.MONAI_LABEL_AUTH_CLIENT_ID)
    secret_file = serving.openid_secret_file
    return OpenIdLogin(provider, read_token("openid_secret_file", secret_file) if secret_file else None)


def _who_may_ask(has_login: bool, is_anonymous: bool) -> str:
    if has_login:
        return "who may ask: whoever has a token, of access_token_file or of the provider; others hear it but by HTTPS"
    if is_anonymous:
        return "who may ask: ANYBODY who reaches this server may read, change and delete everything (allow_anonymous)"
    return (
        "who may ask: this machine only, for there is no login; other machines with --conf access_token_file FILE, or "
        "with --conf allow_anonymous true"
    )
