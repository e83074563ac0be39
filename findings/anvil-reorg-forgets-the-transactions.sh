#!/bin/bash
# anvil_reorg of Anvil 1.7.1 forgets the transactions of the blocks it takes away. Real nodes put them back into their pool, and mine them again.
# Needs Linux on x86-64, npm and Python 3. Run: bash findings/anvil-reorg-forgets-the-transactions.sh
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
    sent = rpc("eth_sendTransaction", {"from": PAYER, "to": PAYEE, "value": "0x1"})
    rpc("anvil_mine", "0x2")
    rpc("anvil_reorg", 3, [])
    rpc("anvil_mine", "0x2")
    pool, known = rpc("txpool_status"), rpc("eth_getTransactionByHash", sent)
    count = rpc("eth_getTransactionCount", PAYER, "latest")
    print("version: ", rpc("web3_clientVersion"))
finally:
    node.terminate()
    node.wait()
print("expected: the transaction is mined again, or waits in the pool")
print("seen:     pool", pool, "- the transaction", known, "- its sender's count", count)
sys.exit(0 if known is None and count == "0x0" and pool["pending"] == "0x0" else 1)
PYTHON
