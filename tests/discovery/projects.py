"""Small fal projects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
#: Stands in a source where no credential may, and nowhere else.
CANARY = "canary-8f2c.p4ssw0rd"

Content = str | bytes


def project(folder: Path, files: Mapping[str, Content]) -> Path:
    """A folder with these files in it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def app(registries: str, *, before: str = "", image: str = '"FROM scratch"') -> str:
    """A module with one app; its registries are written in line 4 of what comes after `before`."""
    return (
        f"{before}import fal\n"
        "class MyApp(fal.App):\n"
        f"    image = fal.container.ContainerImage.from_dockerfile_str({image},\n"
        f"        registries={registries})\n"
    )


def login(password: str, username: str = "AWS") -> str:
    """A login as Python and JSON write it; `password` is an expression."""
    return f'{{"username": "{username}", "password": {password}}}'


def table(
    key: str, password: str, username: str = "AWS", *, image: str = "", name: str = "a"
) -> str:
    """An app of a `pyproject.toml`, of whose seven lines the fifth is the registry's."""
    image = image or 'image = "scratch"'
    return (
        f"[tool.fal.apps.{name}]\n"
        f"exposed_port = 8000\n"
        f"[tool.fal.apps.{name}.image]\n"
        f"{image}\n"
        f'[tool.fal.apps.{name}.image.registries."{key}"]\n'
        f'username = "{username}"\n'
        f'password = "{password}"\n'
    )
