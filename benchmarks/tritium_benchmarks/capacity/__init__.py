"""How many servers a load needs: measured curves, a simulation of the fleet, a plan."""
