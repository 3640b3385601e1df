"""May this principal write this resource? The rows of profiles/fhir/writes.json, applied. Pure.

Two resources are judged on an update: the stored one and the result. Else A takes B's resource over by writing her own name into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gateway.fhir.compartment import at, local
from gateway.fhir.references import Relative
from gateway.fhir.tables import Tables, WriteRow
from gateway.smart.constraint import Deny
from gateway.smart.principal import Principal, PrincipalKind

Resource = Mapping[str, Any]


def check_create(principal: Principal, resource: Resource, tables: Tables, relative: Relative) -> Deny | None:
    """Why this may not be created, or None."""
    if refusal := _never(resource, None, principal, tables):
        return refusal
    rows = [row for row in tables.write_rows(principal.kind, str(resource.get("resourceType"))) if row.create]
    if any(_meets(resource, row, principal, relative) for row in rows):
        return None
    return _deny("create-not-in-table", rows, "creating such a resource")


def check_update(principal: Principal, stored: Resource, result: Resource, tables: Tables, relative: Relative) -> Deny | None:
    """Why the stored resource may not become the result, or None."""
    if refusal := _never(result, stored, principal, tables):
        return refusal
    rows = [row for row in tables.write_rows(principal.kind, str(result.get("resourceType"))) if row.become]
    for row in rows:
        if _may_become(stored, result, row) and _changes_only(stored, result, row, principal, relative) and _is_own(stored, row, principal, relative):
            return None
    return _deny("update-not-in-table", rows, "this change")


def check_delete(principal: Principal, stored: Resource, tables: Tables, relative: Relative) -> Deny | None:
    """Why the stored resource may not be deleted, or None. A type without a status has none in which it may be."""
    rows = [row for row in tables.write_rows(principal.kind, str(stored.get("resourceType"))) if row.delete]
    if any(stored.get("status") in row.delete and _is_own(stored, row, principal, relative) for row in rows):
        return None
    return _deny("delete-not-in-table", rows, "deleting this")


def _deny(reason: str, rows: list[WriteRow], what: str) -> Deny:
    told = f" {rows[0].reason}" if rows else ""
    return Deny(403, "business-rule", reason, f"This caller's kind does not allow {what} here.{told}")


def _never(result: Resource, stored: Resource | None, principal: Principal, tables: Tables) -> Deny | None:
    if principal.kind is PrincipalKind.SYSTEM:
        return None
    for path in tables.never:
        owner, _, member = path.partition(".")
        if owner not in ("*", result.get("resourceType")):
            continue
        if list(at(result, member)) != (list(at(stored, member)) if stored else []):
            return Deny(403, "business-rule", "member-not-writable", f"{path.removeprefix('*.')} cannot be written here.")
    return None


def _meets(resource: Resource, row: WriteRow, principal: Principal, relative: Relative) -> bool:
    return all(_holds(resource, path, allowed, principal, relative) for path, allowed in row.require.items())


def _holds(resource: Resource, path: str, allowed: tuple[str, ...], principal: Principal, relative: Relative) -> bool:
    found = list(at(resource, path))
    if allowed == ("self",):
        return bool(found) and all(is_self(item, principal, relative) for item in found)
    if allowed == ("self-among",):
        return any(is_self(item, principal, relative) for item in found)
    return bool(found) and all(isinstance(item, str) and item in allowed for item in found)


def is_self(reference: Any, principal: Principal, relative: Relative) -> bool:
    """Whether a Reference names the caller, or the patient whose record is open."""
    found = local(reference, relative)
    if found is None:
        return False
    name = "/".join(found)
    return name == principal.fhir_user or (principal.patient != "" and name == f"Patient/{principal.patient}")


def _is_own(stored: Resource, row: WriteRow, principal: Principal, relative: Relative) -> bool:
    """What was created under a row stays under it: only one's own messages are edited."""
    own = {path: allowed for path, allowed in row.require.items() if allowed[0].startswith("self")}
    return all(_holds(stored, path, allowed, principal, relative) for path, allowed in own.items())


def _may_become(stored: Resource, result: Resource, row: WriteRow) -> bool:
    allowed = row.become.get(str(stored.get("status")), row.become.get("*", ()))
    return "*" in allowed or result.get("status") in allowed


def _changes_only(stored: Resource, result: Resource, row: WriteRow, principal: Principal, relative: Relative) -> bool:
    if "*" in row.change:
        return True
    # The server's own members differ by themselves: version and narrative.
    changed = {name for name in stored.keys() | result.keys() if stored.get(name) != result.get(name)} - {"meta", "text"}
    if "participant" in changed and "participant:own-status" in row.change and _own_status_only(stored, result, principal, relative):
        changed.discard("participant")
    return changed <= set(row.change) and _meta(stored) == _meta(result)


def _meta(resource: Resource) -> Any:
    meta = cast("dict[str, Any]", resource.get("meta") or {})
    return {name: value for name, value in meta.items() if name not in ("versionId", "lastUpdated", "source")}


def _own_status_only(stored: Resource, result: Resource, principal: Principal, relative: Relative) -> bool:
    def without(resource: Resource) -> list[Any]:
        return [
            {k: v for k, v in item.items() if k != "status"} if is_self(item.get("actor"), principal, relative) else item
            for item in cast("list[dict[str, Any]]", resource.get("participant", []))
        ]

    return without(stored) == without(result)
