"""A home's device in the energy market: it reserves energy for trades, delivers it, and reports over MQTT.

    agent         the device on the network: connection, timers, retries
    device        its reaction to commands, and its reports; no network
    reservations  the energy promised to each trade; pure, standard library only
    store         the reservations on disk, written before they are reported
    messages      commands and reports in their JSON form
    hardware      the plug-in's answers, checked and with a deadline
    energy_source the interface to plug in hardware: a battery and its inverter, real or simulated
    config        device.json

Needs Python 3.11 and `awsiotsdk`, nothing else.
"""
