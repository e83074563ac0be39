"""A home's device in the energy market: it reserves energy for trades, delivers it, and says so over MQTT.

    agent         the device on the network: connection, timers, retries
    device        what it does with each command, and what it reports; no network
    reservations  which energy is promised to whom; pure, standard library only
    store         the same, on disk, before anybody is told
    messages      the commands and reports as they are on the wire
    hardware      what plugs in, as it is trusted: checked, and with a deadline
    energy_source what plugs in below: a battery and its inverter, real or simulated
    config        device.json

Needs Python 3.11 and `awsiotsdk`, nothing else.
"""
