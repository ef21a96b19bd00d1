"""What the engine costs and what it removes, against loops written by hand: ``python -m benchmarks.engine``.

Every figure is a ratio inside one run: two arms take turns, in the same processes, in short blocks of training steps;
the value is the median of the ratios of neighbouring blocks. Two gloo ranks of one thread on the CPU; on a machine
with an accelerator one process there, or one NCCL rank for each of two.
"""
