"""HTTP: probes, metrics, what stands, and what a person may ask for."""

from refresher.api.guard import is_loopback
from refresher.api.routes import build
from refresher.api.server import Server
from refresher.api.services import Services

__all__ = ["Server", "Services", "build", "is_loopback"]
