#!/bin/bash
# Anvil 1.7.1 with --enable-tx-gas-limit refuses a transaction above 2^24 gas (EIP-7825), and estimates up to the block limit.
# Needs Linux on x86-64, npm and Python 3. Run: bash findings/anvil-estimates-above-the-gas-cap-it-keeps.sh
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


node = start("--hardfork", "osaka", "--enable-tx-gas-limit")
try:
    # Counts down from 800,000, at 26 gas a turn: JUMPDEST, PUSH1 1, SWAP1, SUB, DUP1, PUSH1 4, JUMPI.
    rpc("anvil_setCode", PAYEE, "0x" + "620c3500" + "5b" + "6001" + "90" + "03" + "80" + "6004" + "57" + "00")
    estimate = rpc("eth_estimateGas", {"from": PAYER, "to": PAYEE})
    seen = rpc("eth_sendTransaction", {"from": PAYER, "to": PAYEE, "gas": estimate})
    print("version: ", rpc("web3_clientVersion"))
finally:
    node.terminate()
    node.wait()
print("expected: an error instead of an estimate above", 2**24)
print("seen:     estimate", estimate, "- sending with it:", seen)
sys.exit(0 if isinstance(estimate, str) and int(estimate, 16) > 2**24 and "tx_gas_limit_cap" in str(seen) else 1)
PYTHON
