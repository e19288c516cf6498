"""From a store to a report: plan, partitions, executors, run folders."""
