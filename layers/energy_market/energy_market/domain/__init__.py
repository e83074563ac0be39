"""The market's rules: free of I/O; third-party code only for cryptography."""
