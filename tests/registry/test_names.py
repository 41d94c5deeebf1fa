"""Registries and images as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher.registry import normalise_registry, parse_image
from refresher.registry.names import Kind, kind_of

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
HUB = "registry-1.docker.io"


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("https://index.docker.io/v1/", HUB),
        ("docker.io", HUB),
        ("index.docker.io", HUB),
        ("registry-1.docker.io", HUB),
        ("https://GHCR.io/", "ghcr.io"),
        (f"https://{ECR}/v2/", ECR),
        ("us-central1-docker.pkg.dev/project/repo", "us-central1-docker.pkg.dev"),
        ("localhost:5000", "localhost:5000"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_a_registry_is_its_host(written: str, host: str) -> None:
    """Scheme, path and Docker Hub's other names go; a port stays."""
    assert normalise_registry(written) == host


@pytest.mark.parametrize("written", ["", "https://", "user:pass@host", "a b", "host:port", "-x"])
def test_what_is_no_registry_is_refused(written: str) -> None:
    """Anything else is named in one line."""
    with pytest.raises(ValueError, match="is not a registry"):
        normalise_registry(written)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        (ECR, Kind.ECR),
        ("123456789012.dkr-ecr-fips.us-east-1.on.aws", Kind.ECR),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", Kind.ECR),
        ("public.ecr.aws", Kind.ECR_PUBLIC),
        (HUB, Kind.DOCKER_HUB),
        ("ghcr.io", Kind.OTHER),
        (f"evil.example/{ECR}", Kind.OTHER),
        (f"{ECR}\n", Kind.OTHER),
    ],
)
def test_the_kind_follows_from_the_host(host: str, kind: Kind) -> None:
    """Only the whole host counts."""
    assert kind_of(host) is kind


DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "host", "parsed"),
    [
        ("my-app", ECR, "my-app:latest"),
        ("my-app:1.2_3", ECR, "my-app:1.2_3"),
        ("team/my__app/x---y:v1", ECR, "team/my__app/x---y:v1"),
        (f"{ECR}/team/app:v1", ECR, "team/app:v1"),
        (f"team/app@{DIGEST}", ECR, f"team/app@{DIGEST}"),
        (f"team/app:v1@{DIGEST}", ECR, f"team/app@{DIGEST}"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000", "app:latest"),
        ("ubuntu:24.04", HUB, "library/ubuntu:24.04"),
        ("docker.io/ubuntu", HUB, "library/ubuntu:latest"),
        ("index.docker.io/myuser/image:tag", HUB, "myuser/image:tag"),
        ("GHCR.io/owner/app", "ghcr.io", "owner/app:latest"),
    ],
)
def test_an_image_is_repository_and_reference(image: str, host: str, parsed: str) -> None:
    """The registry may stand in front; a digest wins over a tag; the default tag is latest."""
    assert str(parse_image(image, host)) == parsed


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("", "not a repository name"),
        (":tag", "not a repository name"),
        ("Team/App", "not a repository name"),
        ("team//app", "not a repository name"),
        ("team/../app", "not a repository name"),
        ("a" * 256, "not a repository name"),
        ("https://ghcr.io/x", "without the scheme"),
        ("app\n", "not a repository name"),
        ("app:", "not a tag"),
        ("app:v1:v2", "not a tag"),
        ("app:" + "t" * 129, "not a tag"),
        ("app@", "not a digest"),
        ("app@sha256:12", "not a digest"),
        ("ghcr.io/team/app", "is on ghcr.io, its target on"),
        ("localhost/app", "is on localhost, its target on"),
    ],
)
def test_a_malformed_image_is_refused(image: str, words: str) -> None:
    """One line names the part that is wrong."""
    with pytest.raises(ValueError, match=words) as refused:
        parse_image(image, ECR)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=300))
def test_any_text_is_an_image_or_refused(text: str) -> None:
    """What is parsed can stand in a URL's path as it is."""
    try:
        image = parse_image(text, ECR)
    except ValueError:
        return
    assert image.repository.isascii()
    assert not set(f"{image.repository}{image.reference}") & set(" ?#%\\\r\n")
