#!/bin/bash
# Anvil 1.7.1 started again from --state has its old blocks and receipts, but no state of them, and says they are above its head.
# Needs Linux on x86-64, npm and Python 3. Run: bash findings/anvil-restarted-has-blocks-without-their-states.sh
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --no-audit --no-fund --prefix "$folder" @foundry-rs/anvil-linux-amd64@1.7.1 >/dev/null
python3 - "$folder/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil" "$folder" <<'PYTHON'
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

binary, folder = sys.argv[1:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
PAYER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"  # one of Anvil's own accounts
PAYEE = "0x" + "99" * 20


def rpc(method, *params):
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        said = json.load(answer)
    return said["error"] if "error" in said else said["result"]


def start(*arguments):
    node = subprocess.Popen(
        [binary, "--port", str(port), *arguments],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "HOME": folder, "TMPDIR": folder},
    )
    for _ in range(100):
        try:
            rpc("eth_chainId")
            return node
        except OSError:
            time.sleep(0.1)
    raise SystemExit("Anvil does not start")


node = start("--state", f"{folder}/state.json")
for _ in range(3):
    rpc("eth_sendTransaction", {"from": PAYER, "to": PAYEE, "value": "0x1"})
before = rpc("eth_getTransactionCount", PAYER, "0x2")
node.terminate()
node.wait()
node = start("--state", f"{folder}/state.json")
try:
    block = rpc("eth_getBlockByNumber", "0x2", False)
    after = rpc("eth_getTransactionCount", PAYER, "0x2")
    head = rpc("eth_getTransactionCount", PAYER, "latest")
    print("version: ", rpc("web3_clientVersion"))
finally:
    node.terminate()
    node.wait()
print("expected: the count at block 2 is", before, "after the restart too, or an error that names a missing state")
print("seen:     block 2 is", block["number"], "- the count at it is", after, "- at the head", head)
sys.exit(0 if block["number"] == "0x2" and "BlockOutOfRange" in str(after) and head == "0x3" else 1)
PYTHON
