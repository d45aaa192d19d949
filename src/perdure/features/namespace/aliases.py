"""Search attributes defined the old way: as aliases of preallocated fields (``Keyword01``), through UpdateNamespace."""

from __future__ import annotations

import re
from collections.abc import Mapping

from perdure.core.errors import invalid_argument
from perdure.features.namespace.registry import Namespace

_FIELD_TYPES = {"Text": 1, "Keyword": 2, "Int": 3, "Double": 4, "Bool": 5, "Datetime": 6, "KeywordList": 7}
_FIELD = re.compile(rf"({'|'.join(_FIELD_TYPES)})(?:0[1-9]|[1-9][0-9])")


def upsert_aliases(namespace: Namespace, aliases: Mapping[str, str]) -> None:
    """Define (or, with an empty alias, remove) search attributes by their fields. Raises ApiError INVALID_ARGUMENT for a field in use."""
    for field, name in aliases.items():
        if not name:
            namespace.search_attributes.pop(namespace.aliases.pop(field, ""), None)
        elif name in namespace.aliases.values():
            continue
        elif field in namespace.aliases:
            raise invalid_argument("Custom search attribute field name already allocated.")
        else:
            namespace.aliases[field] = name
            matched = _FIELD.fullmatch(field)
            if matched is not None:
                namespace.search_attributes.setdefault(name, _FIELD_TYPES[matched[1]])
