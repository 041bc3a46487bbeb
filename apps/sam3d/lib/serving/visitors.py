"""Who asks, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from monailabel.config import settings as server_settings
from monailabel.endpoints.user.auth import User
from starlette.requests import HTTPConnection


class Role(IntEnum):
    """Each may do what those before it may."""

    PUBLIC = 0
    USER = 1
    ANNOTATOR = 2
    REVIEWER = 3
    ADMIN = 4


@dataclass(frozen=True)
class Visitor:
    """A name for the log, and a role. `is_one_person`: false for a name that several people share."""

    name: str
    role: Role
    is_one_person: bool = False

    @property
    def stock_user(self) -> User:
        """The same for MONAI Label's own endpoints, whose roles do not include each other."""
        named = {
            Role.USER: server_settings.MONAI_LABEL_AUTH_ROLE_USER,
            Role.ANNOTATOR: server_settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
            Role.REVIEWER: server_settings.MONAI_LABEL_AUTH_ROLE_REVIEWER,
            Role.ADMIN: server_settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
        }
        return User(username=self.name, roles=[name for role, name in named.items() if role <= self.role])


STRANGER = Visitor("nobody", Role.PUBLIC)
# Where no login is set up, whoever is let in at all may do everything.
ANYBODY = Visitor("anybody", Role.ADMIN)


def visitor_of(connection: HTTPConnection) -> Visitor:
    """Whom the gate has let in."""
    visitor: Visitor = getattr(connection.state, "visitor", STRANGER)
    return visitor


def stock_user_of(connection: HTTPConnection) -> User:
    """In place of MONAI Label's own check of tokens, which refuses every one with the PyJWT beside it."""
    return visitor_of(connection).stock_user


def client_of(connection: HTTPConnection, client_id: object) -> str:
    """The name under which a case is kept for somebody: as Slicer says, else as they logged in, else the address of
    their machine, which is all that OHIF lets us see."""
    if client_id:
        return f"client {str(client_id)[:80]}"
    visitor = visitor_of(connection)
    if visitor.is_one_person:
        return f"user {visitor.name}"
    return f"host {connection.client.host if connection.client else ''}"


def name_of(connection: HTTPConnection, client_name: object, client_id: object) -> str:
    """What others are told that somebody is called: as they logged in, else as they say, else what is known."""
    visitor = visitor_of(connection)
    if visitor.is_one_person:
        return visitor.name
    said = str(client_name or client_id or "")[:80].strip()
    return said if said.isprintable() and said else client_of(connection, None).partition(" ")[2]
