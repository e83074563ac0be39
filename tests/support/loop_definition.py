"""The state machine of the matching loop, as tests read it."""

import json
from typing import Any

from tests.support.places import CHECKOUT

TEXT = (CHECKOUT / "infra" / "matching_loop.asl.json").read_text()
LOOP: dict[str, Any] = json.loads(TEXT)
MARK = LOOP["States"]["EachMark"]
STEP = MARK["ItemProcessor"]["States"]
ZONE = STEP["EachZone"]
TICK = ZONE["ItemProcessor"]["States"]
TASKS = {"Match": TICK["Match"], **{name: STEP[name] for name in ("Tell", "Settle", "Missed")}}
