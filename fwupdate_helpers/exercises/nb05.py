"""Checks of notebook 05."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fwupdate_helpers.exercises.card import Card, correct, incorrect, short
from fwupdate_helpers.exercises.learner import Learner
from fwupdate_helpers.local_policies import SMALLEST_POLICY, with_policy
from fwupdate_helpers.sdk_errors import hub_errors

if TYPE_CHECKING:
    from fwupdate_helpers.hub import Hub

_ROOMS: Final = (
    (8_000, 100, 12),  # 6.67
    (8_000, 137, 12),  # 4.87
    (1_200, 10, 12),  # exactly 10
    (400_000, 48, 30),
    (100, 10, 12),  # nobody
)
"""Messages of a day, messages of an update, updates of each."""
_PROBE: Final = "permission-check"


def counts_attendees(learner: Learner) -> Card:
    """05-a: how many people fit into the messages of a day."""
    learner.need("updates_each", 3)
    fit = learner.attempt("attendees_that_fit", todo="Return how many people fit.")
    for daily, for_one, each in _ROOMS:
        call = f"attendees_that_fit({daily}, {for_one}, {each})"
        try:
            found = fit(daily, for_one, each)
        except Exception as error:
            return incorrect(
                f"{call} ended with {type(error).__name__}.",
                expected="A whole number.",
                look="The names in the formula: they are the three of the function.",
            )
        if type(found) is not int or found != daily // (for_one * each):
            return incorrect(
                f"{call} gave {short(found)}.",
                expected=_expected(daily, for_one, each),
                look="What one person needs for all updates, and how to round down.",
            )
    return correct("Everybody who fits can finish, and one more could not.")


def _expected(daily: int, for_one: int, each: int) -> str:
    people = daily // (for_one * each)
    return (
        f"A whole number, {people}: they need {people * for_one * each} messages of {daily}, and "
        f"one person more {for_one * each} beside that."
    )


def chooses_permissions(learner: Learner) -> Card:
    """05-b: the smallest permission for each call, tried on the local hub."""
    hub = learner.hub()
    learner.need("with_policy", 5)
    chosen = learner.attempt("permission", todo="Write a permission beside each call.")
    device_id = hub.device_id(_PROBE)
    with hub_errors(device_id):
        hub.registry.get_service_statistics()
    if not isinstance(chosen, dict):
        return incorrect(
            f"permission is {short(chosen)}.",
            expected="The dictionary of the stub, with a text beside each call.",
            look="The braces.",
        )
    try:
        problems = (_problem(hub, device_id, call, chosen.get(call)) for call in _CALLS)
        found = next((card for card in problems if card is not None), None)
    finally:
        if hub.kind == "local":
            hub.delete_device(device_id)
    tried = "Each was tried, and" if hub.kind == "local" else "As Microsoft documents it:"
    return found or correct(f"{tried} none of them grants more than its call needs.")


def _problem(hub: Hub, device_id: str, call: str, word: Any) -> Card | None:
    """Return what is wrong with one answer, as the hub sees it where it can be asked."""
    right, request = _CALLS[call]
    if word not in SMALLEST_POLICY:
        return incorrect(
            f"{call}: {short(word)} is no permission.",
            expected=f"One of {', '.join(SMALLEST_POLICY)}.",
            look="The spelling; there are no blanks in it.",
        )
    refusal = _refusal(hub, device_id, request, word)
    if refusal or (hub.kind != "local" and word not in (right, _MORE.get(right))):
        return incorrect(
            f"{call}: {word} is not enough. {refusal}".strip(),
            expected="A permission with which the hub lets the call pass.",
            look="Is it about the list of identities, or about a device and its twin?",
        )
    if word != right:
        return incorrect(
            f"{call}: {word} is enough, and more than that.",
            expected="The smallest one with which the hub lets the call pass.",
            look="Does the call change anything?",
        )
    return None


def _refusal(hub: Hub, device_id: str, request: Request, permission: str) -> str:
    """Make a call with the key of a policy that grants a permission; tell how it was refused."""
    from msrest.exceptions import HttpOperationError

    if hub.kind != "local":
        return ""
    policy = SMALLEST_POLICY[permission]
    with with_policy(hub, policy) as other:
        try:
            request(other.registry, device_id)
        except HttpOperationError as error:
            if error.response.status_code != 401:
                return ""  # that the device is not there is an answer, too
            return f"With the policy {policy}, the hub answered 401 {error.response.reason}."
    return ""


Request = Callable[[Any, str], object]


def _read(registry: Any, device_id: str) -> object:
    return registry.get_device(device_id)


def _create(registry: Any, device_id: str) -> object:
    return registry.create_device_with_sas(device_id, None, None, "disabled")


def _wish(registry: Any, device_id: str) -> object:
    from azure.iot.hub.models import Twin, TwinProperties

    return registry.update_twin(device_id, Twin(properties=TwinProperties(desired={"check": 1})))


def _invoke(registry: Any, device_id: str) -> object:
    from azure.iot.hub.models import CloudToDeviceMethod

    method = CloudToDeviceMethod(method_name="check", response_timeout_in_seconds=5)
    return registry.invoke_device_method(device_id, method)


_CALLS: Final[dict[str, tuple[str, Request]]] = {
    "read an identity": ("RegistryRead", _read),
    "create an identity": ("RegistryWrite", _create),
    "write a desired property": ("ServiceConnect", _wish),
    "invoke a direct method": ("ServiceConnect", _invoke),
}
"""For each call of the exercise its permission, and how it is made."""
_MORE: Final = {"RegistryRead": "RegistryWrite"}
"""Permissions that grant another one beside theirs."""

CHECKS: Final = {"05-a": counts_attendees, "05-b": chooses_permissions}
