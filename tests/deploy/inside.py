"""The stand-ins, and the files and variables that lead a container to them."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from refresher.sandbox.world import REGISTRY, SANDBOX_KEY
from tests.world import PATIENCE, World

#: Where the manifests mount the Secret.
CREDENTIALS = "/run/secrets/refresher"
_CA = f"{CREDENTIALS}/ca.pem"


class Inside(World):
    """A world whose `refresher` runs in a container, with the configuration that is shipped."""

    @property
    def credentials(self) -> dict[str, str]:
        """What the Secret holds; the authority of our fal comes the same way."""
        return {
            "fal-key": f"{SANDBOX_KEY.reveal()}\n",
            "api-token": "open-sesame\n",
            "ca.pem": self.certificates.ca_file.read_text(),
        }

    def adapted(self, text: str) -> str:
        """A shipped configuration: as it is, but for where its peers are, and its port."""
        (name,) = (line for line in text.splitlines() if line.startswith("registry = "))
        if "[daemon]" not in text:
            text = f'{text}\n[daemon]\nlisten = "127.0.0.1:9478"\n'
        lead = {
            ":9478": f":{self.port}",
            "[fal]": f'[fal]\nhost = "{self.fal.host}"',
            "[daemon]": f'[daemon]\nca_bundle = "{_CA}"',
            name: f'registry = "{REGISTRY}"\nregistry_url = "{self.registry.url}"',
        }
        for old, new in lead.items():
            assert old in text
            text = text.replace(old, new)
        return text

    @property
    def leading_in(self) -> dict[str, str]:
        """Variables that a cluster's own peers would not need."""
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        key = {"FAL_KEY", "GHCR_TOKEN"}
        environ = {name: value for name, value in self.environ.items() if name not in key}
        return {**environ, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": _CA, "PATH": path}


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the probe answers with 200; what the process said is told where it does not."""
    until = time.monotonic() + PATIENCE
    while answer(url) != 200:
        late = process.poll() is not None or time.monotonic() > until
        assert not late, f"{url} is not there:\n{log.read_text()}"
        time.sleep(0.05)


def answer(url: str) -> int:
    """The status of a GET; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0
