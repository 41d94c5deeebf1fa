"""Everything but the write: each part is tried, and what is broken is said with its fix.

```
examining    which checks each kind of target has, and in which order
checks       a check, and a walk over checks that need one another
fixes        what to do, by what was tried and why it failed
instruments  what the checks look through; each peer is asked a question once
local        configuration, references, files, state: what this machine tells
peers        DNS, TLS
credentials  identity, credential, registry, image
secrets      fal's key, the secrets, who else writes them
project      what the fal project makes of the secrets
```
"""

from refresher.doctor.checks import Check
from refresher.doctor.examining import Doctor
from refresher.doctor.local import unusable

__all__ = ["Check", "Doctor", "unusable"]
