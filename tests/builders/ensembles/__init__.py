"""Bundles that become one."""
