"""What the kubelet makes of a container: `$(NAME)` and `$$`, by the rules of its own package `expansion`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SECRET = {"KAPSTAN_SIGNING_KEY": "the-signing-key", "KAPSTAN_REDIS_URL": "redis://:password@redis"}
"""What the Secret of the namespace puts into the environment before anything is expanded."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value where there is one, `$$` becomes `$`, everything else stays."""
    expanded, at = "", 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            expanded += text[at]
            at += 1
        elif text[at + 1] == "$":
            expanded += "$"
            at += 2
        elif text[at + 1] == "(" and (end := text.find(")", at + 2)) >= 0:
            name = text[at + 2 : end]
            expanded += variables.get(name, f"$({name})")
            at = end + 1
        else:
            expanded += text[at : at + 2]
            at += 2
    return expanded


def process(container: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment of the container's process."""
    environ = dict(SECRET)
    for variable in container["env"]:
        if "value" in variable:
            environ[variable["name"]] = expand(variable["value"], environ)
    words = [*container.get("command", ()), *container.get("args", ())]
    return [expand(word, environ) for word in words], environ
