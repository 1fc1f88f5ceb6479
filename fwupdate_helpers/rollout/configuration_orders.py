"""Give the orders by an automatic device configuration whose target grows wave by wave.

Source: "Automatic device management at scale" (IoT Hub developer guide).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from fwupdate_helpers.contract import Json
from fwupdate_helpers.contract_firmware import CURRENT, DESIRED, desired_outcome
from fwupdate_helpers.errors import DeviceNotFound, HubRequestError
from fwupdate_helpers.hub_requests import retried
from fwupdate_helpers.retries import OnRetry, RetryPolicy
from fwupdate_helpers.rollout.judging import Answer, Reply
from fwupdate_helpers.rollout.orders import is_missing
from fwupdate_helpers.rollout.terms import TAG, Terms

if TYPE_CHECKING:
    from azure.iot.hub.models import Configuration

    from fwupdate_helpers.hub import Hub

T = TypeVar("T")
PRIORITY: Final = 10


class ConfigurationOrders:
    """Orders by one configuration for the whole rollout; its target covers the waves so far.

    It stays when the rollout has completed, so that devices that were offline catch up. When the
    rollout is stopped or cancelled it is deleted: then nobody catches up with a bad image.

    Args:
        hub: The hub.
        terms: What the rollout is to do.
        policy: How often and how long each call is tried.
        on_retry: Called with a `Retry` before each further try.
    """

    def __init__(
        self, hub: Hub, terms: Terms, *, policy: RetryPolicy, on_retry: OnRetry | None = None
    ) -> None:
        self._hub, self._terms = hub, terms
        self._policy, self._on_retry = policy, on_retry
        self._name = f"{terms.rollout_id}-{terms.run}"
        self._answers: dict[str, Answer] = {}

    def begin(self, wave: int, device_ids: Iterable[str]) -> None:
        """Widen the target to this wave."""
        condition = f"{self._terms.condition()} AND tags.{TAG}.wave <= {wave}"
        while not (self._create(condition) or self._widen(condition)):
            pass  # somebody changed or deleted it between two calls

    def seen(self, device_id: str, reported: Json) -> None:
        """Note a device that has heeded the order and runs the version already."""
        if desired_outcome(reported, self._terms.update_id) == CURRENT:
            self._answers[device_id] = Answer(Reply.UP_TO_DATE)

    def answers(self) -> dict[str, Answer]:
        """Return the devices that run the version already."""
        answers, self._answers = self._answers, {}
        return answers

    def stop_trying(self) -> None:
        """Nothing to do: a device that comes back later catches up."""

    def withdraw(self) -> None:
        """Nothing to do: all devices of the wave have their order; `give_up` takes it back."""

    def end(self) -> None:
        """Nothing to do: the next wave widens the target."""

    def give_up(self, wave: int) -> None:
        """Delete the configuration; devices that have not begun then never do."""
        try:
            self._call(lambda: self._hub.configurations.delete_configuration(self._name))
        except (HubRequestError, DeviceNotFound) as error:
            if not is_missing(error):
                raise

    def _create(self, condition: str) -> bool:
        """Create the configuration; False when it is there."""
        if self._find() is not None:
            return False
        try:
            made = self._configuration(condition)
            self._call(lambda: self._hub.configurations.create_configuration(made))
        except HubRequestError as error:
            if error.status != 409:
                raise
            return False
        return True

    def _widen(self, condition: str) -> bool:
        """Change the target; False when the configuration was changed or deleted meanwhile."""
        found = self._find()
        if found is None:
            return False
        if found.target_condition == condition:
            return True
        found.target_condition = condition
        try:
            self._call(
                lambda: self._hub.configurations.update_configuration(found, _quoted(found.etag))
            )
        except (HubRequestError, DeviceNotFound) as error:
            if not is_missing(error) and getattr(error, "status", 0) != 412:
                raise
            return False
        return True

    def _find(self) -> Configuration | None:
        try:
            return self._call(lambda: self._hub.configurations.get_configuration(self._name))
        except (HubRequestError, DeviceNotFound) as error:
            if not is_missing(error):
                raise
            return None

    def _configuration(self, condition: str) -> Configuration:
        from azure.iot.hub.models import Configuration, ConfigurationContent

        key = f"properties.desired.{DESIRED}"
        return Configuration(
            id=self._name,
            content=ConfigurationContent(device_content={key: self._terms.desired()}),
            target_condition=condition,
            priority=PRIORITY,
            labels={TAG: self._terms.rollout_id},
        )

    def _call(self, request: Callable[[], T]) -> T:
        return retried(request, policy=self._policy, on_retry=self._on_retry)


def _quoted(etag: str) -> str:
    # The SDK's configuration manager sends it as it is, and Azure checks quoted ones only.
    return '"' + etag.strip('"') + '"'
