"""The TensorRT target: strongly typed graphs, profiles for each text length, plans, their configs.

prepare.py   export, cast, parity and accuracy gates: needs no GPU
make.py      plans on a GPU, verified there, as the components of a release
check.py     the same graphs and profiles through NVIDIA's ahead-of-time builder: needs no GPU
"""
