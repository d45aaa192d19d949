"""Make the API's enum values cheap to name.

``EventType.EVENT_TYPE_TIMER_FIRED`` is looked up in the enum's descriptor on every use, in Python; the server does that dozens of times per
workflow. As plain attributes of the enum they cost next to nothing.
"""

from __future__ import annotations

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from temporalio.api.enums import v1


def keep_enum_values() -> None:
    """Keep every value of the API's enums as an attribute of its enum. May be called again."""
    for enum in vars(v1).values():
        if isinstance(enum, EnumTypeWrapper):
            for name, value in enum.items():
                setattr(enum, name, value)
