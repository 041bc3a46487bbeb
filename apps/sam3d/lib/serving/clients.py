"""Who asks: the name under which a case is kept for somebody."""

from __future__ import annotations

from fastapi import Request
from monailabel.config import settings as server_settings
from monailabel.endpoints.user.auth import User


def client_of(request: Request, client_id: object, user: User) -> str:
    """As Slicer says, else as they logged in, else the address of their machine, which is all that OHIF lets us see."""
    if client_id:
        return f"client {str(client_id)[:80]}"
    if server_settings.MONAI_LABEL_AUTH_ENABLE:
        return f"user {user.username}"
    return f"host {request.client.host if request.client else ''}"
