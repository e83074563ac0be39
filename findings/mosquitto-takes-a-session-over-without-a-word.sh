#!/bin/bash
# Debian's mosquitto 2.0.11 ends an MQTT 5 connection that another one with its client id replaces without DISCONNECT.
# MQTT 5 has the reason code 0x8E (session taken over) for it, sections 3.1.4 and 3.14.2.1.
# Needs Debian 12 (amd64) and Python 3. Run: bash findings/mosquitto-takes-a-session-over-without-a-word.sh
set -eu
folder=$(mktemp -d)
chmod 755 "$folder"
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download mosquitto=2.0.11-1.2+deb12u2 libdlt2=2.18.8-6 \
    libwrap0=7.6.q-32 libnsl2=1.3.0-2 libtirpc3=1.3.3+ds-1 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu:$folder/root/lib/x86_64-linux-gnu"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser root\n' "$port" >mosquitto.conf
root/usr/sbin/mosquitto -c mosquitto.conf >log 2>&1 &
broker=$!
python3 - "$port" log <<'PYTHON'
import re
import socket
import sys
import time

port, log = int(sys.argv[1]), sys.argv[2]


def connect() -> socket.socket:
    for _ in range(50):
        try:
            line = socket.create_connection(("127.0.0.1", port), timeout=5)
            break
        except OSError:
            time.sleep(0.1)
    # CONNECT: MQTT 5, Clean Start 0, keep alive 60 s, Session Expiry Interval 3600 s, client id "same".
    body = b"\0\4MQTT\5\0\0\x3c\5\x11\0\0\x0e\x10\0\4same"
    line.sendall(bytes([0x10, len(body)]) + body)
    assert line.recv(100)[0] == 0x20, "no CONNACK"
    return line


first = connect()
second = connect()
said = first.recv(100)
print("version:  ", re.search(r"mosquitto version (\S+)", open(log).read())[1])
print("expected:  the first connection gets DISCONNECT with reason code 0x8E (e0 .. 8e)")
print("seen:     ", said.hex(" ") or "end of stream, nothing before it")
sys.exit(0 if said == b"" else 1)
PYTHON
