"""HTTP: probes, metrics, what stands, and what a person may ask for."""

from refresher.api.guard import is_loopback
from refresher.api.routes import Services, build
from refresher.api.server import Server

__all__ = ["Server", "Services", "build", "is_loopback"]
