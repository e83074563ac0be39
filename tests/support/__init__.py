"""What tests, the bench and the security run share; it holds no test.

devices: devices and brokers. chain: contracts on a chain, and people who settle there. trouble: crashes, silences and
servers that die. reference: the rule of the matching, written naively. The rest: the API, the loop, a small market.
"""
