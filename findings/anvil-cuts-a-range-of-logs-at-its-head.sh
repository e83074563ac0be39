#!/bin/bash
# Anvil 1.7.1 answers eth_getLogs up to a block that does not exist as if it ended at the head, and a range that ends before it begins with no logs.
# Needs Linux on x86-64, npm and Python 3. Run: bash findings/anvil-cuts-a-range-of-logs-at-its-head.sh
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


node = start()
try:
    rpc("anvil_mine", "0x2")
    beyond = rpc("eth_getLogs", {"fromBlock": "0x1", "toBlock": "0x100"})
    above = rpc("eth_getLogs", {"fromBlock": "0x100", "toBlock": "0x200"})
    backwards = rpc("eth_getLogs", {"fromBlock": "0x2", "toBlock": "0x1"})
    print("version: ", rpc("web3_clientVersion"))
finally:
    node.terminate()
    node.wait()
print("expected: three errors (geth: block range extends beyond current head block; invalid block range params)")
print("seen:     1 to 256:", beyond, "- 256 to 512:", above, "- 2 to 1:", backwards)
sys.exit(0 if beyond == [] and isinstance(above, dict) and backwards == [] else 1)
PYTHON
