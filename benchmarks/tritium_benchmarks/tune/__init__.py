"""Which configuration should run on this machine: searched, measured, written down."""
