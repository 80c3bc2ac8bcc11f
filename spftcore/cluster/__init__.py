"""Verification and rollouts on the nodes of a Ray cluster (`docs/cluster.md`).

    from spftcore.cluster.verification import ClusterExecutor

    with ClusterExecutor("auto") as executor:        # the face of spftcore.verify.Executor
        verdicts = executor.verify(items)

Ray is an extra: `pip install "spftcore[cluster]"`. Nothing of this package is imported without it.
"""
