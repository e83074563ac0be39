#!/bin/bash
# Debian's mosquitto 2.0.11 with an acl_file answers SUBSCRIBE to a topic that the file forbids with "granted", and then
# never sends anything of it. A publication to that topic is refused with a reason code. MQTT 5 has 0x87 (not authorized)
# for SUBACK, too (section 3.9.3); a device that takes a granted subscription for a proof that it is heard is wrong here.
# Needs Debian 12 (amd64) and Python 3. Run: bash findings/mosquitto-grants-subscriptions-it-never-serves.sh
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
printf 'topic readwrite allowed/#\ntopic write forbidden/open\n' >acl
printf 'listener %s 127.0.0.1\nallow_anonymous true\nuser root\nacl_file %s/acl\n' "$port" "$folder" >mosquitto.conf
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


def subscribe(line: socket.socket, topic: bytes) -> bytes:
    body = b"\0\1\0" + len(topic).to_bytes(2, "big") + topic + b"\1"
    line.sendall(bytes([0x82, len(body)]) + body)
    return line.recv(100)


def publish(line: socket.socket, topic: bytes) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + b"\0\2\0hello"
    line.sendall(bytes([0x32, len(body)]) + body)
    return line.recv(200)


line = connect()
suback = subscribe(line, b"forbidden/open")
puback = publish(line, b"forbidden/open")  # writing is allowed, and the only subscriber is this one
served = b"hello" in puback
if not served:
    line.settimeout(2)
    try:
        served = b"hello" in line.recv(200)
    except TimeoutError:
        pass
refused = publish(line, b"forbidden/closed")
print("version:  ", re.search(r"mosquitto version (\S+)", open(log).read())[1])
print("expected:  SUBACK with reason code 0x87 for a filter that the acl_file forbids to read")
print("seen:      SUBACK with", hex(suback[-1]), "and the message", "comes" if served else "does not come;",
      "PUBACK of a forbidden publication:", hex(refused[-1]))
sys.exit(0 if (suback[-1], served, refused[-1]) == (1, False, 0x87) else 1)
PYTHON
