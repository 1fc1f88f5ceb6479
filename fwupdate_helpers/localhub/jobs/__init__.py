"""Scheduled jobs: one direct method or one twin patch for many devices, now or later.

Where Microsoft's documentation is silent, the local hub has made a choice:

- The target set is frozen when the job starts, not when it is created: a device that matches by
  then takes part, one that begins to match later does not.
- A job that has started ends ``completed``, whatever its devices answered; the statistics and the
  device jobs tell that. It ends ``failed`` when it never started itself.
- The window of time begins at the start time, or at the creation when that is later.
- What a device has begun before the end of the window, or before a cancel, it may finish.
- A method that was under way when the hub died is failed with GatewayTimeout and never sent
  again: the device may have run it. A twin patch is written together with its record, so that it
  is applied once.
- A scheduled job counts as active from its start time on; when too many are active then, it waits
  as ``queued`` within its window. On creation, one too many is refused with 429004.

Source: Microsoft's "Schedule jobs on multiple devices" (iot-hub-devguide-jobs.md), the service
API's service.json (2021-04-12) and azure-iot-hub 2.7.
"""
