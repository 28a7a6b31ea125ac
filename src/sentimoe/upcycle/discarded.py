"""Version 0.1 converted models in place. A call that still expects this throws the new model away, and is refused."""

from __future__ import annotations

import dis
import inspect

from ..errors import ConfigError


def refuse_discarded_result(name: str) -> None:
    """Raises ConfigError where the function of that name, which calls this, was called and its result is not kept."""
    frame = inspect.currentframe()
    caller = frame and frame.f_back and frame.f_back.f_back
    if caller is None:
        return
    following = next(each for each in dis.get_instructions(caller.f_code) if each.offset > caller.f_lasti)
    if following.opname == "POP_TOP":
        raise ConfigError(
            f"{name} returns the new model and leaves the given one unchanged (version 0.1 changed it in place): write "
            f"model = {name}(model, ...)"
        )
