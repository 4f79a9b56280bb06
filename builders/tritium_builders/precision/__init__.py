"""Reduced precision: an fp32 graph in, a graph that says itself what each node computes in out.

Precision lives in the ONNX graph (explicit casts, QuantizeLinear and DequantizeLinear), never in a
compiler's flags: what was measured here is what a compiler has to build.
"""
