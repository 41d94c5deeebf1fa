"""A fal project to targets: it is read, never imported and never run.

```
walking     which files a project has
pyproject   [tool.fal.apps.*.image]                    -> uses
source      ContainerImage(…) in Python                -> uses
scopes      what a name stands for in Python
constants   what an expression comes to, where that can be known without running it
dockerfiles the images that a Dockerfile starts from
passwords   "$NAME", a literal, or computed; the value is forgotten at once
judging     pure: one use -> a finding, and the target that it asks for
planning    pure: all uses -> findings and targets that get along
reading     a project -> all of that
composing   a project and a configuration file -> the configuration
writing     targets -> a commented configuration file
```
"""

from refresher.discovery.composing import Composed, compose
from refresher.discovery.findings import Discovery, Finding, Problem, Target
from refresher.discovery.reading import discover, sources
from refresher.discovery.writing import Written, merge, variables, write

__all__ = [
    "Composed",
    "Discovery",
    "Finding",
    "Problem",
    "Target",
    "Written",
    "compose",
    "discover",
    "merge",
    "sources",
    "variables",
    "write",
]
