"""Print the exact versions of what `retrofit[dev]` needs, as installed here.

What happens to lie around in the environment is left out, and so are the CUDA packages: torch pins those itself,
and only where its build has them.
"""

import re
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TORCH_PINS = re.compile(r"nvidia-|cuda-|triton")


def closure(*wanted: str) -> dict[str, str]:
    """{name: version} of the installed distributions that the requirements lead to."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(text) for text in wanted]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if TORCH_PINS.match(name):
            continue
        distribution = metadata.distribution(name)
        # A build's label ("+cpu") is no part of what others can install.
        found[name] = distribution.version.split("+")[0]
        for extra in ["", *sorted(requirement.extras)]:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in distribution.requires or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    del found["retrofit"]
    return found


if __name__ == "__main__":
    lines = [f"{name}=={version}\n" for name, version in sorted(closure("retrofit[dev]").items())]
    sys.stdout.writelines(lines)
