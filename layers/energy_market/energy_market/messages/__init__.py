"""Messages to and from devices (the specification, section 3)."""
