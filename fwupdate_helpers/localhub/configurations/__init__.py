"""Automatic device configurations: desired properties that the hub keeps in line on many devices.

`specification` reads and checks a configuration, `content` has the rules of twin paths, conflicts
and removal, `store` keeps all in the hub's database, `evaluation` brings twins in line, `loop` does
so again and again.

Source: Microsoft's "Automatic device management for devices at scale"
(iot-hub-automatic-device-management.md) and service.json (API version 2021-04-12). Where these say
nothing, this is what the local hub does:

- Two configurations are in conflict where one's twin path is the other's, or lies inside it. The
  weaker one does not write that path at all.
- What a configuration writes is merged into the twin, and only what it wrote is removed again,
  unless somebody else has changed it meanwhile. An object that becomes empty goes, too.
- A value that was changed by hand is written again at the next evaluation.
- ``configurations.<id>.status`` of a configuration that targets a device and writes nothing there,
  because stronger ones have all its paths, is ``Targeted``.
"""
