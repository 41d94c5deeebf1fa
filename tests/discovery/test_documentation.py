"""Every example of fal's documentation page on private registries, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from refresher.discovery import Discovery, discover
from tests.discovery.projects import ECR, project

DOCKER_HUB_PYTHON = """\
class MyModel(fal.App):
    image = fal.container.ContainerImage.from_dockerfile_str(
        "FROM myuser/image:tag",
        registries={
            "https://index.docker.io/v1/": {
                "username": "myuser",
                "password": "$DOCKERHUB_TOKEN",  # Use `fal secrets set` to create this secret
            },
        },
    )
"""

DOCKER_HUB_PYPROJECT = """\
[tool.fal.apps.my-server]
auth = "private"
machine_type = "GPU-A100"
exposed_port = 8000

[tool.fal.apps.my-server.image]
image = "myuser/image:tag"

[tool.fal.apps.my-server.image.registries."https://index.docker.io/v1/"]
username = "myuser"
password = "$DOCKERHUB_TOKEN"
"""

ARTIFACT_REGISTRY_PYTHON = """\
class MyModel(fal.App):
    image = fal.container.ContainerImage.from_dockerfile_str(
        "FROM us-central1-docker.pkg.dev/my-project/my-repo/image:tag",
        registries={
            "us-central1-docker.pkg.dev": {
                "username": "_json_key_base64",
                "password": "$GOOGLE_AR_JSON_BASE64",
            },
        },
    )
"""

ARTIFACT_REGISTRY_PYPROJECT = """\
[tool.fal.apps.my-server]
auth = "private"
machine_type = "GPU-A100"
exposed_port = 8000

[tool.fal.apps.my-server.image]
image = "us-central1-docker.pkg.dev/my-project/my-repo/image:tag"

[tool.fal.apps.my-server.image.registries."us-central1-docker.pkg.dev"]
username = "_json_key_base64"
password = "$GOOGLE_AR_JSON_BASE64"
"""

ELASTIC_PYTHON = """\
import os
import boto3
import base64

def get_ecr_token(region: str) -> str:
    ecr_client = boto3.client(
        'ecr',
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=region
    )
    response = ecr_client.get_authorization_token()
    auth_data = response['authorizationData'][0]
    token = auth_data['authorizationToken']
    # Decode from base64, format is "AWS:password"
    decoded_token = base64.b64decode(token).decode('utf-8')
    _, password = decoded_token.split(':', 1)
    return password

class MyModel(fal.App):
    image = fal.container.ContainerImage.from_dockerfile_str(
        "FROM 123456789012.dkr.ecr.us-east-1.amazonaws.com/image:tag",
        registries={
            "123456789012.dkr.ecr.us-east-1.amazonaws.com": {
                "username": "AWS",
                "password": get_ecr_token("us-east-1"),
            },
        },
    )
"""

ELASTIC_PYPROJECT = """\
[tool.fal.apps.my-server]
auth = "private"
machine_type = "GPU-A100"
exposed_port = 8000

[tool.fal.apps.my-server.image]
image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/image:tag"

[tool.fal.apps.my-server.image.registries."123456789012.dkr.ecr.us-east-1.amazonaws.com"]
username = "AWS"
password = "$AWS_ECR_PASSWORD"
"""

GAR = "us-central1-docker.pkg.dev"
GAR_SECRET = "GOOGLE_AR_JSON_BASE64"

HUB_TARGET = {
    "source": "dockerhub",
    "username": "myuser",
    "password": {"env": "DOCKERHUB_TOKEN"},
    "secret": "DOCKERHUB_TOKEN",
    "image": "myuser/image:tag",
}
GAR_TARGET = {
    "source": "gar",
    "registry": GAR,
    "username": "_json_key_base64",
    "key": {"env": GAR_SECRET},
    "secret": GAR_SECRET,
    "image": "my-project/my-repo/image:tag",
}
ECR_TARGET = {
    "source": "ecr",
    "registry": ECR,
    "secret": "AWS_ECR_PASSWORD",
    "image": "image:tag",
}


def of(folder: Path, name: str, text: str) -> Discovery:
    return discover(project(folder, {name: text}))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (DOCKER_HUB_PYPROJECT, {"hub": HUB_TARGET}),
        (ARTIFACT_REGISTRY_PYPROJECT, {"gar": GAR_TARGET}),
        (ELASTIC_PYPROJECT, {"ecr": ECR_TARGET}),
    ],
    ids=["dockerhub", "gar", "ecr"],
)
def test_each_example_of_a_pyproject_is_kept(
    tmp_path: Path, text: str, target: dict[str, object]
) -> None:
    """App, line of the registry, image and all."""
    found = of(tmp_path, "pyproject.toml", text)
    (finding,) = found.findings
    assert (finding.app, str(finding.place)) == ("my-server", "pyproject.toml:9")
    assert found.tables == target
    assert finding.password == "reference"
    assert finding.advice.startswith(f"target {found.targets[0].name}: ")


@pytest.mark.parametrize(
    ("text", "line", "target"),
    [
        (DOCKER_HUB_PYTHON, 5, {"hub": HUB_TARGET}),
        (ARTIFACT_REGISTRY_PYTHON, 5, {"gar": GAR_TARGET}),
    ],
    ids=["dockerhub", "gar"],
)
def test_each_example_of_python_with_a_secret_is_kept(
    tmp_path: Path, text: str, line: int, target: dict[str, object]
) -> None:
    """The image stands in the Dockerfile's FROM."""
    found = of(tmp_path, "app.py", text)
    (finding,) = found.findings
    assert (finding.app, str(finding.place)) == ("MyModel", f"app.py:{line}")
    assert found.tables == target


def test_the_example_that_asks_for_a_token_at_deploy_time_is_warned_of(tmp_path: Path) -> None:
    """It is dead within 12 hours, and no refresher can help it: the fix is said."""
    found = of(tmp_path, "app.py", ELASTIC_PYTHON)
    (finding,) = found.findings
    assert (
        finding.place.line == ELASTIC_PYTHON[: ELASTIC_PYTHON.index(f'"{ECR}": {{')].count("\n") + 1
    )
    assert (finding.registry, finding.source, finding.username) == (ECR, "ecr", "AWS")
    assert (finding.secret, finding.password) == (None, "computed")
    assert finding.advice == (
        "not kept: the password is computed at deploy time: dead 12 h after the deploy;"
        ' use "$AWS_ECR_PASSWORD"'
    )
    assert found.targets == ()
