"""Workloads, load generators, baselines and reports. Empty until the benchmark suite lands."""
