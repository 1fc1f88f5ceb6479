"""The clean-up on a hub that many share: what the kit made for one attendee goes, and no other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from azure.iot.hub.models import ExportImportDevice, Twin

from fwupdate_helpers import identities, kit_devices
from fwupdate_helpers.attendees import attendee, device_id_of
from fwupdate_helpers.connection_string import Secret
from fwupdate_helpers.fleet import DeviceProfile
from fwupdate_helpers.fleet.identities import create_identities
from fwupdate_helpers.hub import Hub, KitDevices, connect_hub
from fwupdate_helpers.queries import PAGE_SIZE
from fwupdate_helpers.settings import ATTENDEE_VARIABLE

KIT_TAGS = {"createdBy": "fwupdate-kit"}


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an attendee that no other test has; it is that of this process."""
    name = f"ada{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv(ATTENDEE_VARIABLE, name)
    return name


@pytest.fixture
def hub(name: str) -> Iterator[Hub]:
    with connect_hub() as hub:
        yield hub


def all_ids(hub: Hub) -> set[str]:
    return {device.device_id for device in hub.registry.get_devices(1000)}


def make_foreign(hub: Hub, device_id: str, tags: dict[str, str] | None = None) -> str:
    """Make an identity with the SDK alone, as somebody who does not use the kit does."""
    hub.registry.create_device_with_sas(device_id, None, None, "enabled")
    if tags:
        hub.registry.update_twin(device_id, Twin(tags=tags))
    return device_id


def make_for(hub: Hub, other: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let another attendee make a device with the kit."""
    with monkeypatch.context() as patch:
        patch.setenv(ATTENDEE_VARIABLE, other)
        device_id = hub.device_id("pump")
        hub.device_connection_string(device_id)
    return device_id


def test_the_clean_up_deletes_the_kits_identities_of_this_attendee_and_no_other(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = DeviceProfile(0, f"{name}-fleet-0000", "board", "1.0.0", "oslo", tags={"fleet": "f"})
    mine = {hub.device_id("pump"), profile.device_id, hub.device_id("by-hand")}
    hub.device_connection_string(hub.device_id("pump"))
    create_identities(hub, [profile])
    hub.mark_as_mine(make_foreign(hub, hub.device_id("by-hand")))
    others = {
        make_foreign(hub, f"product-{name}"),
        make_foreign(hub, f"{name}-prefix-and-no-tag"),
        make_foreign(hub, f"{name}-half-a-tag", KIT_TAGS),
        make_foreign(hub, f"{name}-tag-of-another", {**KIT_TAGS, "createdFor": "bo"}),
        make_foreign(hub, f"tags-and-no-prefix-{name}", {**KIT_TAGS, "createdFor": name}),
        make_foreign(hub, f"{name}-other-maker", {"createdBy": "me", "createdFor": name}),
        make_for(hub, f"{name}-marie", monkeypatch),
        make_for(hub, name[:-1], monkeypatch),
        make_for(hub, "bo", monkeypatch),
    }
    before = all_ids(hub)
    assert mine | others <= before

    assert set(hub.kit_devices()) == mine
    assert all_ids(hub) == before, "a list deletes nothing"
    assert set(hub.delete_kit_devices()) == mine
    assert all_ids(hub) == before - mine
    identities.delete_identities(hub, others)


def test_more_than_a_page_and_more_than_a_call_are_listed_before_any_is_deleted(
    hub: Hub, name: str
) -> None:
    wanted = {f"{name}-{number:03}" for number in range(PAGE_SIZE + 20)}
    identities.send_identities(
        hub,
        [
            identities.new_identity(one, identities.new_key(), hub.kit_tags, mode="create")
            for one in wanted
        ],
    )
    foreign = make_foreign(hub, f"{name}-foreign")
    seen: list[tuple[KitDevices, bool]] = []
    deleted = hub.delete_kit_devices(lambda found: seen.append((found, wanted <= all_ids(hub))))
    assert set(deleted) == wanted and list(deleted) == sorted(deleted)
    assert seen == [(deleted, True)]
    assert not wanted & all_ids(hub) and foreign in all_ids(hub)
    hub.delete_device(foreign)


def test_nothing_is_deleted_when_its_list_cannot_be_shown(hub: Hub) -> None:
    device_id = hub.device_id("pump")
    hub.device_connection_string(device_id)

    def no_screen(devices: KitDevices) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.delete_kit_devices(no_screen)
    assert list(hub.kit_devices()) == [device_id]
    assert list(hub.delete_kit_devices()) == [device_id]
    assert hub.delete_kit_devices() == ()


def test_an_identity_and_its_tags_are_made_in_one_step(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_id = hub.device_id("pump")
    calls = []
    for method in ("update_twin", "create_device_with_sas"):
        monkeypatch.setattr(hub.registry, method, lambda *given: calls.append(given))
    string = hub.device_connection_string(device_id)
    assert hub.registry.get_twin(device_id).tags == {**KIT_TAGS, "createdFor": name}
    key = hub.registry.get_device(device_id).authentication.symmetric_key.primary_key
    assert string.endswith(f";SharedAccessKey={key}") and calls == []
    hub.delete_kit_devices()


def test_an_identity_that_is_there_keeps_its_tags_and_its_key(hub: Hub) -> None:
    device_id = make_foreign(hub, hub.device_id("pump"), {"owner": "bo"})
    key = hub.registry.get_device(device_id).authentication.symmetric_key.primary_key
    assert hub.device_connection_string(device_id).endswith(key)
    assert hub.registry.get_twin(device_id).tags == {"owner": "bo"}
    assert hub.kit_devices() == ()
    hub.delete_device(device_id)


def test_whoever_was_faster_is_asked_for_the_key(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    device_id = hub.device_id("pump")
    make = kit_devices.create_if_missing

    def too_late(hub: Hub, device_id: str) -> Secret | None:
        make_foreign(hub, device_id)
        return make(hub, device_id)

    monkeypatch.setattr(kit_devices, "create_if_missing", too_late)
    key = hub.device_connection_string(device_id).rpartition("SharedAccessKey=")[2]
    keys = hub.registry.get_device(device_id).authentication.symmetric_key
    assert keys.primary_key == key
    hub.delete_device(device_id)


def test_a_device_that_is_not_there_is_not_marked(hub: Hub) -> None:
    hub.mark_as_mine(hub.device_id("nobody"))
    assert hub.kit_devices() == ()


def test_a_hub_that_refuses_an_identity_is_quoted(hub: Hub) -> None:
    items = [ExportImportDevice(id="no/such/id", import_mode="create")]
    with pytest.raises(identities.FirmwareUpdateError, match="refused 1 of the device identities"):
        identities.send_identities(hub, items)


def test_a_list_shows_each_id_and_how_many_there_are() -> None:
    assert repr(KitDevices()) == "Of yours, this kit has no device identity here."
    assert repr(KitDevices(["a-1"])).splitlines()[1:] == ["a-1"]
    two = KitDevices(["a-1", "a-<b>"])
    assert "2 device identities" in repr(two)
    assert two._repr_html_().count("<li>") == 2 and "a-&lt;b&gt;" in two._repr_html_()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("Ada Lovelace", "Ada-Lovelace"),
        ("DOMAIN\\ada", "DOMAIN-ada"),
        ("x" * 90, "x" * 40),
        (" 王芳 ", "user-"),
        ("Ω'; DROP", "DROP"),
    ],
)
def test_an_attendee_has_a_name_that_a_device_id_may_have(
    given: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ATTENDEE_VARIABLE, given)
    name = attendee()
    assert name.startswith(shown) and name == attendee()
    monkeypatch.setenv("JPY_SESSION_NAME", "0" * 200 + ".ipynb")
    assert device_id_of(name, "pump").startswith(f"{name}-")
    assert device_id_of(name, "pump").endswith("-pump") and len(device_id_of(name, "pump")) <= 128


def test_two_names_of_another_script_are_two_attendees(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for given in ("王芳", "李娜"):
        monkeypatch.setenv(ATTENDEE_VARIABLE, given)
        names.add(attendee())
    assert len(names) == 2
