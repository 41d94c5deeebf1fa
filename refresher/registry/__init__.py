"""A username and a password are proved by using them.

```
handshake  RegistryVerifier.verify: log in, at /v2/ or at the token service; then pull
hub        HubVerifier.verify: the same at Docker Hub, which wants more care
visit      what both ask, and the proof
steps      the layers of a verification, as they went
wire       one call: deadlines, limits, errors of the library translated
answers    pure: which failure an answer is
words      what a server said, fit to be shown
addresses  where a credential may be sent
challenges WWW-Authenticate
names      registries and images as people write them
```
"""

from __future__ import annotations

from refresher.registry.handshake import RegistryVerifier
from refresher.registry.hub import HubVerifier
from refresher.registry.names import normalise_registry, parse_image

__all__ = ["HubVerifier", "RegistryVerifier", "normalise_registry", "parse_image"]
