"""Every policy on every workload, beside full, shortened and early-stopped training.

``python -m benchmarks.policies``.

A comparison of ``client.compare`` (``workloads.json``; ``quick.json`` with ``--quick``), the judgement of its table
against what the project promises, and all raw runs in ``benchmarks/results/policies.json``. It can be interrupted at
any moment and goes on with the same command; ``--report-only`` judges what is there.
"""
