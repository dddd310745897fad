"""What a comparison costs, beside its peers and beside the least that it could cost.

``python -m tests.benchmarks`` prints one Markdown table: alignkit, the floor, and other tools, on the same
models, the same files, the same inputs. Subcommands measure one thing each: ``budget``, ``chain``, ``large``,
``metrics``, ``plan``. Nothing here is a timed test: what is printed are figures and ratios.

    models, broken     the models; a file of each in which one node is spoilt
    files              what is exported of a model, once, for all tools
    peers              one module per tool: what is called, and how its answer is read
    records            measurements and answers; whether an answer names the spoilt node
    measuring, worker  runs in turn, each tool in a process of its own; seconds and peak memory
    table              the Markdown table
    budget, large      peak memory within a budget, and of a model of over a billion parameters
    chain              cost per tap along a chain of up to thousands
    jobs, memory       a job in a process of its own; resident memory
    bench_metrics      all metrics of one pair of tensors
    bench_plan         predictions of ``alignkit plan`` against real runs
"""
