"""A device that is killed at any line: what it promised is kept, and each command has one answer in the end.

Not a sample. A child process works through a script of commands and is killed (SIGKILL) at its k-th line of the
device's code, for every k. Its successor finds the files as they were left, and what was not acknowledged.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from energy_device import device, energy_source, store
from energy_device.device import Device
from energy_device.energy_source import SimulatedBattery
from energy_device.messages import Report
from energy_device.store import Store

DEVICE = "0d000000-0000-4000-8000-000000000001"
ORDER = "0a000000-0000-4000-8000-000000000001"
SOLD, REFUSED, LATE, SEED, CUT = (f"0b000000-0000-4000-8000-00000000000{number}" for number in range(5))
# What has side effects, `live` included. A kill inside a pure function is a kill at the line that called it.
TRACED = {__file__, *(str(module.__file__) for module in (device, energy_source, store))}

COMMANDS: list[tuple[str, dict[str, object]]] = [
    ("lock", {"order_id": ORDER, "transaction_id": SOLD, "kwh_requested": 0.6}),
    ("lock", {"order_id": ORDER, "transaction_id": SOLD, "kwh_requested": 0.6}),
    ("lock", {"order_id": ORDER, "transaction_id": REFUSED, "kwh_requested": 0.5}),
    ("unlock", {"transaction_id": LATE}),
    ("lock", {"order_id": ORDER, "transaction_id": LATE, "kwh_requested": 0.1}),
    ("lock", {"order_id": SEED, "kwh_requested": 0.2}),
    ("lock", {"order_id": ORDER, "transaction_id": CUT, "kwh_requested": 0.2}),
    ("transfer", {"transaction_id": CUT, "kwh": 0.2}),
    ("time passes", {}),
    ("time passes", {}),
    ("unlock", {"transaction_id": CUT}),
    ("transfer", {"transaction_id": SOLD, "kwh": 0.6}),
    ("unlock", {"transaction_id": SEED}),
]


class Line:
    """What left the device, written down at once: a killed process leaves it complete up to the kill."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, kind: str, value: object) -> None:
        os.write(self._file, (json.dumps([kind, value]) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


def live(folder: Path, done: int) -> None:
    """A device's life, as the agent leads it: from the first command that was not acknowledged to the last delivery."""
    seconds = iter(range(1_000))
    battery = SimulatedBattery(
        capacity_wh=1_000,
        charge_wh=1_000,
        power_w=360_000,
        path=folder / "battery.json",
        clock=lambda: float(next(seconds)),
    )
    line = Line(folder / "line")
    mine = Device(
        device_id=DEVICE,
        side="donor",
        store=Store.open(folder / "state.db", device_id=DEVICE),
        source=battery,
    )

    def publish(reports: list[Report]) -> None:
        for report in reports:
            line.write("published", [report.topic.split("/", 3)[-1], json.loads(report.payload)])
            mine.settle(report)

    publish([*mine.owed(), *mine.status()])
    for number, (topic, command) in enumerate(COMMANDS):
        if number >= done:
            if topic == "time passes":
                reports = mine.advance()
            else:
                reports = mine.receive(f"energy/donor/{DEVICE}/{topic}", json.dumps(command).encode())
            line.write("acknowledged", number)
            publish(reports)
    while mine.is_delivering:
        publish(mine.advance())
    publish(mine.status())
    line.write("over", [mine.locks, battery.charge_wh])
    mine.close()
    line.close()


def kill_at(step: int) -> None:
    """From here on, die at the given line of the device's code."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal lines
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            lines += 1
            if lines == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    killed: bool
    published: list[tuple[str, dict[str, object]]]
    over: list[object]


def crash_and_recover(folder: Path, step: int) -> Outcome:
    child = os.fork()
    if child == 0:
        kill_at(step)
        live(folder, 0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    if killed:
        left = (
            [json.loads(line) for line in (folder / "line").read_text().splitlines()]
            if (folder / "line").exists()
            else []
        )
        live(folder, sum(kind == "acknowledged" for kind, _ in left))
    left = [json.loads(line) for line in (folder / "line").read_text().splitlines()]
    return Outcome(
        killed=killed,
        published=[(value[0], value[1]) for kind, value in left if kind == "published"],
        over=[value for kind, value in left if kind == "over"],
    )


def faults(outcome: Outcome) -> list[str]:
    """What is wrong with a life that was interrupted; nothing, if all is well."""
    found = []
    answers: dict[str, set[str]] = {}
    sequence = []
    deliveries: dict[str, set[float]] = {}
    for topic, payload in outcome.published:
        if topic == "lock/response":
            key = str(payload.get("transaction_id", payload["order_id"]))
            answers.setdefault(key, set()).add(str(payload["status"]))
        if "seq" in payload:
            sequence.append(int(str(payload["seq"])))
        if payload.get("status") == "delivered":
            deliveries.setdefault(str(payload["transaction_id"]), set()).add(float(str(payload["kwh_delivered"])))
    wanted = {SOLD: {"locked"}, REFUSED: {"rejected"}, LATE: {"rejected"}, SEED: {"locked"}, CUT: {"locked"}}
    if answers != wanted:
        found.append(f"answers {answers}")
    if sequence != sorted(set(sequence)):
        found.append(f"sequence {sequence}")
    sold, cut = deliveries.get(SOLD), list(deliveries.get(CUT, ()))
    if sold != {0.6} or len(cut) != 1 or cut[0] > 0.2:
        found.append(f"deliveries {deliveries}")
    # What was cut off is reported as it was fed, be the kill where it may.
    elif outcome.over[-1] != [[], 400 - round(cut[0] * 1000)]:
        found.append(f"locks and charge {outcome.over}")
    return found


def main() -> None:
    """Kill at every line until one run gets through; print what was found."""
    root = Path(sys.argv[1])
    step, wrong = 0, {}
    while True:
        step += 1
        folder = root / str(step)
        folder.mkdir()
        outcome = crash_and_recover(folder, step)
        if found := faults(outcome):
            wrong[step] = found
        if not outcome.killed:
            break
    print(json.dumps({"steps": step, "wrong": wrong}))


def test_a_device_killed_at_any_line_keeps_its_promises_and_answers_once() -> None:
    # Memory, where there is a file system of it: a killed process leaves the same behind there, and hundreds die here.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a folder of our own in it
    # A process of its own: it forks, which a process with threads must not.
    environment = {**os.environ, "PYTHONPATH": str(Path(device.__file__).parent.parent)}
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, __file__, folder]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["wrong"] == {}
    assert result["steps"] > 500


if __name__ == "__main__":
    main()
